"""The same maths in plain NumPy: the executable specification.

Every function here says in a few lines what a kernel of lstmc computes, and the tests hold the
kernels to it. It is deliberately not fast, not stateful and not defensive: it loops over time in
Python, writes to none of its arguments, returns new arrays, and checks neither shapes nor types.
Results have the type of the input, float32 or float64; losses and norms are Python floats.

Shapes are written with T time steps, B batch rows, I input features, H hidden units, P projected
units (H without projection), O output features and V words or classes. Sequences are time-major.
Sequences of states have T + 1 slots: slot 0 is the initial state, slot t the state after t steps.
``dx`` means d loss / d x, always.

References
----------
Huber (1964), Robust estimation of a location parameter.
Elman (1990), Finding structure in time.
Hochreiter & Schmidhuber (1997), Long short-term memory.
Gers, Schmidhuber & Cummins (2000), Learning to forget: continual prediction with LSTM.
Gers & Schmidhuber (2000), Recurrent nets that time and count.
Tieleman & Hinton (2012), Lecture 6.5: RMSprop.
Graves (2013), Generating sequences with recurrent neural networks.
Mikolov (2012), Statistical language models based on neural networks.
Maas, Hannun & Ng (2013), Rectifier nonlinearities improve neural network acoustic models.
Cho et al. (2014), Learning phrase representations using RNN encoder-decoder.
Sak, Senior & Beaufays (2014), Long short-term memory recurrent neural network architectures for
large scale acoustic modeling.
Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks.
Sutskever, Martens, Dahl & Hinton (2013), On the importance of initialization and momentum.
Schuster & Paliwal (1997), Bidirectional recurrent neural networks.
Kingma & Ba (2015), Adam: a method for stochastic optimization.
Greff, Srivastava, Koutník, Steunebrink & Schmidhuber (2017), LSTM: a search space odyssey.
Clevert, Unterthiner & Hochreiter (2016), Fast and accurate deep network learning by exponential linear
    units (ELUs).
Loshchilov & Hutter (2019), Decoupled weight decay regularization.
"""

from .activations import activation_backward, activation_forward
from .gru import gru_backward, gru_forward, gru_step
from .gru_before import gru_before_backward, gru_before_forward, gru_before_step
from .linear import embedding_backward, embedding_forward, linear_backward, linear_forward
from .losses import binary_cross_entropy, huber, softmax_cross_entropy, squared_error
from .lstm import lstm_backward, lstm_forward, lstm_step, sigmoid
from .optim import adam, clip_grad_norm, clip_grad_value, rmsprop, sgd
from .rnn import rnn_backward, rnn_forward, rnn_step
from .sequences import layer_backward, layer_forward, stack_backward, stack_forward

__all__ = [
    "activation_backward",
    "activation_forward",
    "adam",
    "binary_cross_entropy",
    "clip_grad_norm",
    "clip_grad_value",
    "embedding_backward",
    "embedding_forward",
    "gru_backward",
    "gru_before_backward",
    "gru_before_forward",
    "gru_before_step",
    "gru_forward",
    "gru_step",
    "huber",
    "layer_backward",
    "layer_forward",
    "linear_backward",
    "linear_forward",
    "lstm_backward",
    "lstm_forward",
    "lstm_step",
    "rmsprop",
    "rnn_backward",
    "rnn_forward",
    "rnn_step",
    "sgd",
    "sigmoid",
    "softmax_cross_entropy",
    "squared_error",
    "stack_backward",
    "stack_forward",
]
