"""What a training run shows: on a terminal a bar, and for every epoch a line that stays."""

import errno
import sys
import time

__all__ = ["Display"]

GONE = (errno.EPIPE, errno.EIO)  # of a pipe's reader, of a terminal
LINE_SECONDS = 60.0  # without a bar, a long epoch has a line as often as this


def is_terminal(stream):
    """Return whether a stream, which may be None or closed, is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


class Display:
    """Shows how a run gets on. Every line fits a terminal of 80 columns.

    Parameters
    ----------
    show : bool, text file or None
        None: a bar and lines if stderr is a terminal, else nothing. True: a bar if stderr is a terminal, and
        lines in any case, to stderr. A file: the same, with the lines to that. False: nothing.

    Raises
    ------
    OSError, TypeError, ValueError
        No text can be written to the file.
    """

    def __init__(self, show):
        if hasattr(show, "write"):
            show.write("")  # or it raises what it would after an epoch
        terminal = show is not False and is_terminal(sys.stderr)
        self.lines = show if hasattr(show, "write") else sys.stderr if show or terminal else None
        self.terminal, self.bar = terminal, None
        self.epoch, self.said_at = "", time.monotonic()

    def begin_epoch(self, epoch, epochs, count, done):
        """Begin an epoch of `count` targets, of which some are done."""
        self.epoch, self.count = f"epoch {epoch}/{epochs}", count
        if self.terminal:
            from tqdm import tqdm

            self.bar = tqdm(
                total=count,
                initial=done,
                unit=" tokens",
                unit_scale=True,
                desc=self.epoch,
                dynamic_ncols=True,
                leave=False,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining} left, {rate_fmt}{postfix}",
            )

    def advance(self, sums):
        """Say how far the epoch is: `sums` of the tokens, the losses and the seconds so far."""
        done, loss = sums["tokens"], sums["loss"] / sums["tokens"]
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self.bar.update(done - self.bar.n)
        elif self.lines is not None and time.monotonic() - self.said_at >= LINE_SECONDS:
            rate = done / max(sums["seconds"], 1e-9)
            left = (self.count - done) / rate / 60
            self.say(f"{self.epoch}, {done / self.count:.0%}: training {loss:.4f}, {rate:,.0f} tokens/s, "
                     f"{left:,.0f} min left")  # fmt: skip

    def validate(self):
        """Say that validation begins."""
        if self.bar is not None:
            self.bar.set_postfix_str("validating")

    def end_epoch(self, history):
        """Replace the bar with a line of what the last epoch came to."""
        self.close()
        *earlier, record = history
        valid = record["valid_loss"]
        losses = f"training {record['train_loss']:.4f}"
        if valid is not None:
            losses += f", validation {valid:.4f}"
            losses += " (best)" if all(valid < r["valid_loss"] for r in earlier) else ""
        self.say(f"{self.epoch}: {losses}, {record['tokens_per_second']:,.0f} tokens/s")

    def say(self, line):
        """Write a line, at once; none any more if whoever read them has gone."""
        self.said_at = time.monotonic()
        try:
            if self.lines is not None:
                print(line, file=self.lines, flush=True)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self.lines = None

    def close(self):
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
