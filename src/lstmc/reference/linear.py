"""The linear layer and the embedding."""

import numpy as np

__all__ = ["embedding_backward", "embedding_forward", "linear_backward", "linear_forward"]


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
