"""The same maths in plain NumPy: the executable specification.

Every function here says in a few lines what a kernel of lstmc computes, and the tests hold the
kernels to it. It is deliberately not fast, not stateful and not defensive: it loops over time in
Python, writes to none of its arguments, returns new arrays, and checks neither shapes nor types.
Results have the type of the input, float32 or float64; losses and norms are Python floats.

Shapes are written with T time steps, B batch rows, I input features, H hidden units, O output
features and V words or classes. Sequences are time-major. Sequences of states have T + 1 slots:
slot 0 is the initial state, slot t the state after t steps. ``dx`` means d loss / d x, always.

References
----------
Elman (1990), Finding structure in time.
Hochreiter & Schmidhuber (1997), Long short-term memory.
Gers, Schmidhuber & Cummins (2000), Learning to forget: continual prediction with LSTM.
Tieleman & Hinton (2012), Lecture 6.5: RMSprop.
Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks.
Sutskever, Martens, Dahl & Hinton (2013), On the importance of initialization and momentum.
Kingma & Ba (2015), Adam: a method for stochastic optimization.
Loshchilov & Hutter (2019), Decoupled weight decay regularization.
"""

import numpy as np

# --------------------------------------------------------------------------------------------------
# LSTM
# --------------------------------------------------------------------------------------------------


def sigmoid(x):
    """Logistic function 1 / (1 + exp(-x)), of any shape, without overflow at either end."""
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + decay), decay / (1 + decay))


def _lstm_cell(x, h, c, weight_ih, weight_hh, bias):
    """Take one step; return the new h and c and the activated gates."""
    i, f, g, o = np.split(x @ weight_ih.T + h @ weight_hh.T + bias, 4, axis=-1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g
    h = o * np.tanh(c)
    return h, c, np.concatenate([i, f, g, o], axis=-1)


def lstm_step(x, h, c, weight_ih, weight_hh, bias):
    """One step of an LSTM with forget gates.

    Parameters
    ----------
    x : (B, I) array
        The input of this step.
    h, c : (B, H) arrays
        Hidden state and cell state before the step.
    weight_ih : (4H, I) array
    weight_hh : (4H, H) array
    bias : (4H,) array
        Weights and bias, rows in gate order i, f, g, o.

    Returns
    -------
    h, c : (B, H) arrays
        Hidden state and cell state after the step.

    Notes
    -----
    Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000).
    """
    h, c, _ = _lstm_cell(x, h, c, weight_ih, weight_hh, bias)
    return h, c


def lstm_forward(x, h0, c0, weight_ih, weight_hh, bias):
    """One LSTM layer over a sequence.

    Parameters
    ----------
    x : (T, B, I) array
    h0, c0 : (B, H) arrays
        Initial hidden state and cell state.
    weight_ih : (4H, I) array
    weight_hh : (4H, H) array
    bias : (4H,) array
        Weights and bias, rows in gate order i, f, g, o.

    Returns
    -------
    h, c : (T + 1, B, H) arrays
        States; slot 0 holds h0 and c0, so the output sequence is ``h[1:]``.
    gates : (T, B, 4H) array
        Activated gates, in order i, f, g, o.

    Notes
    -----
    Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000).
    """
    steps, batch, hidden = len(x), *h0.shape
    h = np.empty((steps + 1, batch, hidden), x.dtype)
    c = np.empty((steps + 1, batch, hidden), x.dtype)
    gates = np.empty((steps, batch, 4 * hidden), x.dtype)
    h[0], c[0] = h0, c0
    for t in range(steps):
        h[t + 1], c[t + 1], gates[t] = _lstm_cell(x[t], h[t], c[t], weight_ih, weight_hh, bias)
    return h, c, gates


def lstm_backward(dh, dh_n, dc_n, x, h, c, gates, weight_ih, weight_hh):
    """Back-propagation through time of `lstm_forward`: exact, over all T steps.

    Parameters
    ----------
    dh : (T, B, H) array
        Gradient arriving at each output h_1 .. h_T.
    dh_n, dc_n : (B, H) arrays
        Gradient arriving through the final state, on top of ``dh[-1]``.
    x, h, c, gates, weight_ih, weight_hh
        What `lstm_forward` took and returned.

    Returns
    -------
    dx : (T, B, I) array
    dh0, dc0 : (B, H) arrays
    dweight_ih : (4H, I) array
    dweight_hh : (4H, H) array
    dbias : (4H,) array

    Notes
    -----
    Hochreiter & Schmidhuber (1997) truncate this gradient; here nothing is cut.
    """
    dgates = np.empty_like(gates)  # with respect to the gates before their activation
    dh_next, dc_next = dh_n, dc_n
    for t in reversed(range(len(x))):  # gates[t] lead from state t to state t + 1
        i, f, g, o = np.split(gates[t], 4, axis=-1)
        tanh_c = np.tanh(c[t + 1])
        # h = o * tanh(c)
        dh_t = dh[t] + dh_next
        do = dh_t * tanh_c
        dc_t = dc_next + dh_t * o * (1 - tanh_c**2)
        # c = f * c_previous + i * g
        di, df, dg = dc_t * g, dc_t * c[t], dc_t * i
        dc_next = dc_t * f
        # i, f, o = sigmoid(...), g = tanh(...)
        dgates[t] = np.concatenate(
            [di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)], axis=-1
        )
        dh_next = dgates[t] @ weight_hh
    dx, dweight_ih, dbias = linear_backward(dgates, x, weight_ih)
    _, dweight_hh, _ = linear_backward(dgates, h[:-1], weight_hh)
    return dx, dh_next, dc_next, dweight_ih, dweight_hh, dbias


# --------------------------------------------------------------------------------------------------
# RNN
# --------------------------------------------------------------------------------------------------

# Each nonlinearity, and its derivative written in terms of its result.
_NONLINEARITIES = {
    "tanh": (np.tanh, lambda h: 1 - h**2),
    "relu": (lambda a: np.maximum(a, 0), lambda h: (h > 0).astype(h.dtype)),
    "identity": (lambda a: a, np.ones_like),
}


def rnn_step(x, h, weight_ih, weight_hh, bias, nonlinearity="tanh"):
    """One step of a simple recurrent network.

    Parameters
    ----------
    x : (B, I) array
        The input of this step.
    h : (B, H) array
        Hidden state before the step.
    weight_ih : (H, I) array
    weight_hh : (H, H) array
    bias : (H,) array
    nonlinearity : {"tanh", "relu", "identity"}

    Returns
    -------
    h : (B, H) array
        Hidden state after the step.

    Notes
    -----
    Elman (1990), whose units are logistic; tanh is today's custom.
    """
    activate, _ = _NONLINEARITIES[nonlinearity]
    return activate(x @ weight_ih.T + h @ weight_hh.T + bias)


def rnn_forward(x, h0, weight_ih, weight_hh, bias, nonlinearity="tanh"):
    """One layer of a simple recurrent network over a sequence; Elman (1990).

    Parameters
    ----------
    x : (T, B, I) array
    h0 : (B, H) array
        Initial hidden state.
    weight_ih : (H, I) array
    weight_hh : (H, H) array
    bias : (H,) array
    nonlinearity : {"tanh", "relu", "identity"}

    Returns
    -------
    h : (T + 1, B, H) array
        States; slot 0 holds h0, so the output sequence is ``h[1:]``.
    """
    h = np.empty((len(x) + 1, *h0.shape), x.dtype)
    h[0] = h0
    for t in range(len(x)):
        h[t + 1] = rnn_step(x[t], h[t], weight_ih, weight_hh, bias, nonlinearity)
    return h


def rnn_backward(dh, dh_n, x, h, weight_ih, weight_hh, nonlinearity="tanh"):
    """Back-propagation through time of `rnn_forward`: exact, over all T steps.

    Parameters
    ----------
    dh : (T, B, H) array
        Gradient arriving at each output h_1 .. h_T.
    dh_n : (B, H) array
        Gradient arriving through the final state, on top of ``dh[-1]``.
    x, h, weight_ih, weight_hh, nonlinearity
        What `rnn_forward` took and returned. The slope of relu at 0 is 0.

    Returns
    -------
    dx : (T, B, I) array
    dh0 : (B, H) array
    dweight_ih : (H, I) array
    dweight_hh : (H, H) array
    dbias : (H,) array

    Notes
    -----
    The network of Elman (1990), who cuts the gradient after one step; here nothing is cut.
    """
    _, slope = _NONLINEARITIES[nonlinearity]
    da = np.empty_like(h[1:])  # with respect to the sums before the nonlinearity
    dh_next = dh_n
    for t in reversed(range(len(x))):  # da[t] belongs to the step from state t to state t + 1
        da[t] = (dh[t] + dh_next) * slope(h[t + 1])
        dh_next = da[t] @ weight_hh
    dx, dweight_ih, dbias = linear_backward(da, x, weight_ih)
    _, dweight_hh, _ = linear_backward(da, h[:-1], weight_hh)
    return dx, dh_next, dweight_ih, dweight_hh, dbias


# --------------------------------------------------------------------------------------------------
# Linear layer and embedding
# --------------------------------------------------------------------------------------------------


def linear_forward(x, weight, bias):
    """Affine map y = x Wᵀ + b of the last axis.

    Parameters
    ----------
    x : (..., I) array
    weight : (O, I) array
    bias : (O,) array

    Returns
    -------
    y : (..., O) array
    """
    return x @ weight.T + bias


def linear_backward(dy, x, weight):
    """Gradients of `linear_forward`; those of the parameters are sums over every row.

    Parameters
    ----------
    dy : (..., O) array
    x : (..., I) array
    weight : (O, I) array

    Returns
    -------
    dx : (..., I) array
    dweight : (O, I) array
    dbias : (O,) array
    """
    dy_rows, x_rows = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return dy @ weight, dy_rows.T @ x_rows, dy_rows.sum(axis=0)


def embedding_forward(tokens, weight):
    """Rows of a table: y[...] = weight[tokens[...]].

    Parameters
    ----------
    tokens : (...) integer array
        Each at least 0 and less than V.
    weight : (V, O) array

    Returns
    -------
    y : (..., O) array
    """
    return weight[tokens]


def embedding_backward(dy, tokens, num_embeddings):
    """Gradient of `embedding_forward`: a token that occurs n times collects n gradients.

    Parameters
    ----------
    dy : (..., O) array
    tokens : (...) integer array
    num_embeddings : int
        V, the number of rows of the table.

    Returns
    -------
    dweight : (V, O) array
    """
    dweight = np.zeros((num_embeddings, dy.shape[-1]), dy.dtype)
    np.add.at(dweight, tokens, dy)  # unlike dweight[tokens] += dy, this adds repeated tokens
    return dweight


# --------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------


def softmax_cross_entropy(logits, targets, ignore_index=-1):
    """Mean negative log-likelihood of the targets under a softmax, and its gradient.

    Parameters
    ----------
    logits : (..., V) array
    targets : (...) integer array
        Each at least 0 and less than V, or equal to `ignore_index`.
    ignore_index : int
        A row with this target is not counted: whatever its logits, they change neither the loss
        nor its mean, and their gradient is 0.

    Returns
    -------
    loss : float
        In nats, averaged over the counted rows; 0.0 if there are none.
    dlogits : (..., V) array
    """
    targets = np.asarray(targets)
    counted = targets != ignore_index
    rows, wanted = logits[counted], targets[counted]  # (N, V) and (N,)
    dlogits = np.zeros_like(logits)
    if len(rows) == 0:
        return 0.0, dlogits
    shifted = rows - rows.max(axis=-1, keepdims=True)  # so that exp cannot overflow
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    one_hot = np.arange(rows.shape[-1]) == wanted[:, None]
    dlogits[counted] = (np.exp(log_probability) - one_hot) / len(rows)
    return float(-log_probability[one_hot].mean(dtype=np.float64)), dlogits


def squared_error(y, target):
    """Mean of (y - target)² over all elements, and its gradient.

    Parameters
    ----------
    y, target : arrays of one shape

    Returns
    -------
    loss : float
    dy : array of the shape of y
    """
    error = y - target
    return float(np.mean(error**2, dtype=np.float64)), 2 * error / error.size


# --------------------------------------------------------------------------------------------------
# Gradient clipping and optimisers, over arrays of any one shape
# --------------------------------------------------------------------------------------------------


def clip_grad_norm(grads, max_norm):
    """Scale gradients down to a largest Euclidean norm; Pascanu et al. (2013).

    Parameters
    ----------
    grads : array
        Returned as they are unless their norm is finite and larger than `max_norm`.
    max_norm : float

    Returns
    -------
    grads : array
    norm : float
        The norm before clipping, summed in float64.
    """
    norm = float(np.sqrt(np.sum(np.square(grads, dtype=np.float64))))
    if np.isfinite(norm) and norm > max_norm:
        grads = grads * (max_norm / norm)
    return grads, norm


def sgd(params, grads, velocity, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    """Gradient descent, with classical or Nesterov momentum; Sutskever et al. (2013).

    Parameters
    ----------
    params, grads, velocity : arrays of one shape
        The velocity starts at zero.
    lr : float
        Learning rate. It scales the step, not the velocity: the form of PyTorch, which differs
        from Sutskever's while the learning rate changes.
    momentum : float
    nesterov : bool
    weight_decay : float
        Times the parameters, added to the gradient.

    Returns
    -------
    params, velocity : arrays
    """
    grads = grads + weight_decay * params
    velocity = momentum * velocity + grads
    step = grads + momentum * velocity if nesterov else velocity
    return params - lr * step, velocity


def adam(
    params,
    grads,
    m,
    v,
    step,
    lr,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    decoupled=False,
):
    """Adam, Kingma & Ba (2015), or with `decoupled` AdamW, Loshchilov & Hutter (2019).

    Parameters
    ----------
    params, grads, m, v : arrays of one shape
        m and v, the running means of the gradient and of its square, start at zero.
    step : int
        The number of this step, counted from 1.
    lr, beta1, beta2, eps : float
    weight_decay : float
        Times the parameters, added to the gradient; if decoupled, instead times lr times the
        parameters, taken from them before the step.
    decoupled : bool

    Returns
    -------
    params, m, v : arrays
    """
    if decoupled:
        params = params * (1 - lr * weight_decay)
    else:
        grads = grads + weight_decay * params
    m = beta1 * m + (1 - beta1) * grads
    v = beta2 * v + (1 - beta2) * grads**2
    m_corrected = m / (1 - beta1**step)
    v_corrected = v / (1 - beta2**step)
    return params - lr * m_corrected / (np.sqrt(v_corrected) + eps), m, v


def rmsprop(
    params,
    grads,
    square_avg,
    lr,
    alpha=0.99,
    eps=1e-8,
    momentum_buffer=None,
    momentum=0.0,
    weight_decay=0.0,
):
    """RMSprop; Tieleman & Hinton (2012).

    Parameters
    ----------
    params, grads, square_avg : arrays of one shape
        The running mean of the squared gradient starts at zero.
    lr, alpha, eps : float
        Learning rate, decay of the running mean, and what is added to its root.
    momentum_buffer : array of the same shape, or None
        None means zeros. Without momentum it is neither read nor changed.
    momentum : float
    weight_decay : float
        Times the parameters, added to the gradient.

    Returns
    -------
    params, square_avg : arrays
    momentum_buffer : array or None
    """
    grads = grads + weight_decay * params
    square_avg = alpha * square_avg + (1 - alpha) * grads**2
    step = grads / (np.sqrt(square_avg) + eps)
    if momentum:
        previous = np.zeros_like(params) if momentum_buffer is None else momentum_buffer
        step = momentum_buffer = momentum * previous + step
    return params - lr * step, square_avg, momentum_buffer
