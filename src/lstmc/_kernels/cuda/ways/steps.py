"""The way that launches a product and a kernel for each step."""

from ..launch import i32, i64, launch, or_null
from ..products import product
from .run import new_record

__all__ = ["Steps"]


class Steps:
    """A product and a kernel for each step."""

    name = "steps"

    def __init__(self, run):
        self.run = run
        self.record = new_record()
        self.states = run.rows(run.hidden)  # what h the next product reads
        self.sums = run.rows(run.cell.gates * run.hidden)  # that product; on the way back, dgates

    @staticmethod
    def pays(run):
        """Return whether to take it where nothing before it is taken: always."""
        return True

    @classmethod
    def fitting(cls, run):
        """Return the way for a LayerRun: it fits all."""
        return cls(run)

    def forward(self, call):
        """Run a ForwardCall."""
        call.begin(self.run, self.record, self.states)
        self.launch_forward()

    def launch_forward(self):
        """Launch all steps."""
        run, step = self.run, self.run.kernel("forward_step")
        for t in range(run.steps):
            product(self.sums, self.states, run.weight_hh, turn_b=True)
            launch(
                step, run.size, self.record, self.states, self.sums, i64(t), i32(run.batch),
                i32(run.hidden),
            )  # fmt: skip

    def backward(self, call):
        """Run a BackwardCall."""
        call.begin(self.run, self.record, call.dh0, call.dc0)
        self.launch_backward(call.dh0, call.dc0)

    def launch_backward(self, dh_now, dc_now):
        """Launch all steps, the last one first; dh_now and dc_now (B, H) carry the gradient."""
        run, step = self.run, self.run.kernel("backward_step")
        for t in reversed(range(run.steps)):
            launch(
                step, run.size, self.record, self.sums, or_null(dc_now), dh_now, i64(t), i32(run.batch),
                i32(run.hidden),
            )  # fmt: skip
            product(dh_now, self.sums, run.weight_hh)
