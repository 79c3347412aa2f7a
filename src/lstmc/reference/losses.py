"""Losses: the value and its gradient at once."""

import numpy as np

__all__ = ["softmax_cross_entropy", "squared_error"]


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
    rows, classes = logits[counted], targets[counted]  # (N, V) and (N,)
    dlogits = np.zeros_like(logits)
    if len(rows) == 0:
        return 0.0, dlogits
    shifted = rows - rows.max(axis=-1, keepdims=True)  # so that exp cannot overflow
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    one_hot = np.arange(rows.shape[-1]) == classes[:, None]
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
