"""Losses: the value and its gradient at once.

A mask is None, which lets everything count, or booleans: only where it is True does a target count. What does
not count may be anything, NaN too: it changes neither the loss nor the mean, and its gradient is 0.
"""

import numpy as np

__all__ = ["binary_cross_entropy", "huber", "softmax_cross_entropy", "squared_error"]


def softmax_cross_entropy(logits, targets, ignore_index=-1, mask=None):
    """Mean negative log-likelihood of the targets under a softmax, and its gradient.

    Parameters
    ----------
    logits : (..., V) array
    targets : (...) integer array
        Each that counts is at least 0 and less than V.
    ignore_index : int
        A target of this value does not count.
    mask : (...) boolean array or None

    Returns
    -------
    loss : float
        In nats, averaged over the counted rows; 0.0 if there are none.
    dlogits : (..., V) array
    """
    targets = np.asarray(targets)
    counted = targets != ignore_index
    if mask is not None:
        counted &= mask
    rows, classes = logits[counted], targets[counted]  # (N, V) and (N,)
    dlogits = np.zeros_like(logits)
    if len(rows) == 0:
        return 0.0, dlogits
    shifted = rows - rows.max(axis=-1, keepdims=True)  # so that exp cannot overflow
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    one_hot = np.arange(rows.shape[-1]) == classes[:, None]
    dlogits[counted] = (np.exp(log_probability) - one_hot) / len(rows)
    return float(-log_probability[one_hot].mean(dtype=np.float64)), dlogits


def squared_error(y, target, mask=None):
    """Mean of (y - target)², and its gradient.

    Parameters
    ----------
    y, target : arrays of one shape
    mask : boolean array of that shape, or None

    Returns
    -------
    loss : float
        0.0 if nothing counts.
    dy : array of the shape of y
    """
    return _mean(y, target, mask, lambda y, target: ((y - target) ** 2, 2 * (y - target)))


def huber(y, target, delta=1.0, mask=None):
    """Mean of Huber's loss, and its gradient: error² / 2 up to an error of delta, and a line beyond.

    Parameters
    ----------
    y, target : arrays of one shape
    delta : float
    mask : boolean array of that shape, or None

    Returns
    -------
    loss : float
        0.0 if nothing counts.
    dy : array of the shape of y
    """

    def loss(y, target):
        size = np.abs(y - target)
        return (
            np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)),
            np.clip(y - target, -delta, delta),
        )

    return _mean(y, target, mask, loss)


def binary_cross_entropy(logits, targets, mask=None):
    """Mean of -targets log(p) - (1 - targets) log(1 - p) with p = sigmoid(logits), and its gradient.

    Parameters
    ----------
    logits, targets : arrays of one shape
    mask : boolean array of that shape, or None

    Returns
    -------
    loss : float
        In nats; 0.0 if nothing counts.
    dlogits : array of the shape of logits
    """

    def loss(logits, targets):
        # -log(p) = log(1 + exp(-logits)), and -log(1 - p) = log(1 + exp(logits))
        zero = np.zeros_like(logits)
        value = targets * np.logaddexp(zero, -logits) + (1 - targets) * np.logaddexp(zero, logits)
        return value, np.exp(-np.logaddexp(zero, -logits)) - targets

    return _mean(logits, targets, mask, loss)


def _mean(y, target, mask, loss):
    """Return the mean of what a loss gives for the elements that count, and its gradient."""
    counted = np.ones(y.shape, bool) if mask is None else mask
    dy = np.zeros_like(y)
    if not counted.any():
        return 0.0, dy
    values, slopes = loss(y[counted], target[counted])
    dy[counted] = slopes / len(slopes)
    return float(values.mean(dtype=np.float64)), dy
