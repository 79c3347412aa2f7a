"""Gradient clipping and optimisers, over arrays of any one shape."""

import numpy as np

__all__ = ["adam", "clip_grad_norm", "clip_grad_value", "rmsprop", "sgd"]


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
        The norm before clipping, summed in float64 relative to the largest element, so that no square
        overflows or vanishes.
    """
    wide = np.asarray(grads, np.float64)
    norm = float(np.abs(wide).max(initial=0))
    if 0 < norm < np.inf:
        exponent = np.frexp(norm)[1]
        squares = np.square(np.ldexp(wide, -exponent))
        norm = float(np.ldexp(np.sqrt(squares.sum()), exponent))
    if np.isfinite(norm) and norm > max_norm:
        grads = (wide / norm * max_norm).astype(np.asarray(grads).dtype)
    return grads, norm


def clip_grad_value(grads, limit):
    """Limit every element of gradients to +-limit; Mikolov (2012).

    Parameters
    ----------
    grads : array
        NaN stays.
    limit : float

    Returns
    -------
    grads : array
    """
    return np.clip(grads, -limit, limit).astype(np.asarray(grads).dtype)


def _mean_of_squares(mean, grads, decay):
    """Return the running mean of squares after these gradients: at most the largest number there is.

    Infinity would never fade. The factor comes first where the square alone overflows.
    """
    with np.errstate(over="ignore"):
        square = np.square(grads)
        share = np.where(np.isinf(square), (1 - decay) * grads * grads, (1 - decay) * square)
        return np.minimum(decay * mean + share, np.finfo(share.dtype).max)


def _beside_root(values, mean):
    """Return what is divided by the root of that mean: no larger than the root where the mean had to stop.

    What is not finite stays, to be seen.
    """
    most = np.finfo(mean.dtype).max
    limited = np.clip(values, -np.sqrt(most), np.sqrt(most))
    return np.where((mean >= most) & np.isfinite(values), limited, values)


def _not_zero(eps, params):
    return max(eps, float(np.finfo(params.dtype).tiny))


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
        eps counts as the smallest normal number at least.
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
    v = _mean_of_squares(v, grads, beta2)
    m = _beside_root(beta1 * m + (1 - beta1) * grads, v)
    m_corrected = m / (1 - beta1**step)
    root_corrected = np.sqrt(v) / (1 - beta2**step) ** 0.5
    return params - lr * m_corrected / (root_corrected + _not_zero(eps, params)), m, v


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
        Learning rate, decay of the running mean, and what is added to its root: the smallest normal number at
        least.
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
    square_avg = _mean_of_squares(square_avg, grads, alpha)
    step = _beside_root(grads, square_avg) / (np.sqrt(square_avg) + _not_zero(eps, params))
    if momentum:
        previous = np.zeros_like(params) if momentum_buffer is None else momentum_buffer
        step = momentum_buffer = momentum * previous + step
    return params - lr * step, square_avg, momentum_buffer
