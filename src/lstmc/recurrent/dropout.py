"""Dropout between the layers of a stack: masks, and what they leave of the output of a layer."""

import numpy as np

__all__ = ["draw_masks", "dropped"]


def draw_masks(layer, of):
    """Draw what one call drops.

    Parameters
    ----------
    layer : Recurrent
    of : Sequences

    Returns
    -------
    tuple of ndarray (T, B, D*P) of bool
        Of the output of each layer of the stack but the last, what is kept: read-only, in the order of x's
        steps and rows.
    """
    shape = (of.steps, of.batch, layer.num_directions * layer.features_of_h)
    drawn = shape[1:] if layer.variational else shape
    masks = [
        layer.kernels.dropout_mask(layer.rng, layer.dropout, drawn)
        for _ in range(layer.num_layers - 1)
    ]
    return tuple(np.broadcast_to(mask, shape) for mask in masks)  # which is read-only


def dropped(layer, rows, mask, of):
    """Return what a mask leaves of the output of a layer, or of the gradient there, scaled up.

    Parameters
    ----------
    layer : Recurrent
    rows : ndarray (T, B, D*P), or (N, D*P) as `of` packs them
    mask : ndarray (T, B, D*P) of bool
    of : Sequences
    """
    if rows.ndim == 2 and of.order is not None:
        mask = mask.reshape(-1, mask.shape[2])[of.order]
    out = layer.empty(rows.shape)
    layer.kernels.masked(out, rows, mask.reshape(rows.shape), 1 / (1 - layer.dropout))
    return out
