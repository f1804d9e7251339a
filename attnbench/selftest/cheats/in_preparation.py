"""The work is done in `prepare`, whose time is no call's, and `copies_inputs` is not declared."""

from __future__ import annotations

from attnbench.backend import Base, Call, Inputs, Outputs
from attnbench.case import Case
from attnbench.selftest.cheats.plain import attention

TRUSTED = "incorrect"


class InPreparation(Base):
    name = "in_preparation"

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        answer = Outputs(attention(inputs.q, inputs.k, inputs.v, case.causal, case.scale))
        return lambda: answer


class DeclaredPreparation(Base):
    """Honest: it keeps copies in fp32, and says so."""

    name = "declared_preparation"
    copies_inputs = True

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        q, k, v = (x.float() for x in (inputs.q, inputs.k, inputs.v))
        return lambda: Outputs(attention(q, k, v, case.causal, case.scale).to(inputs.q.dtype))


BACKENDS = (InPreparation(), DeclaredPreparation())
HONEST = ("declared_preparation",)
