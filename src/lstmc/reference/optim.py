"""Gradient clipping and optimisers, over arrays of any one shape."""

import numpy as np

__all__ = ["adam", "clip_grad_norm", "rmsprop", "sgd"]


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
