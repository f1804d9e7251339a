"""The judge as a tool of the Model Context Protocol, by its own library: the same options, the same object."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Literal

from attnbench import __version__
from attnbench.judge.judgement import MEANS, Judgement
from attnbench.judge.question import SUITE, TIMEOUT_S, JudgeError, Question
from attnbench.judge.runner import judge
from attnbench.run.runner import Silent

EXTRA = "pip install 'attnbench[mcp]'"
ABOUT = (
    "Judge one attention kernel: checks it against an fp64 oracle, the cheapest cases first, and times it beside the "
    "incumbent only where it is right. Verdicts: " + "; ".join(f"{name}: {meaning}" for name, meaning in MEANS.items())
)
# Two that are timed at once would disturb each other.
_ONE_AT_A_TIME = threading.Lock()


def serve() -> None:
    """Until the client hangs up. Raises JudgeError where the library is not installed."""
    server().run()


def server() -> Any:
    try:
        from mcp.server.mcpserver import MCPServer
    except ImportError as error:
        raise JudgeError(f"--mcp needs the package mcp ({error}); install it: {EXTRA}") from None
    made = MCPServer("attnbench", version=__version__)
    made.tool(name="judge", description=ABOUT)(judge_tool)
    return made


async def judge_tool(
    candidate: str,
    suite: str = SUITE,
    against: str | None = None,
    interpret: Literal["", "auto", "hlo", "tpu"] = "",
    trusted: bool = False,
    device: str = "auto",
    timeout_s: float = TIMEOUT_S,
    budget_s: float | None = None,
    seed: int | None = None,
    plugins: tuple[str, ...] = (),
) -> Judgement:
    """candidate: FILE.py:function, FILE.py with BACKENDS, or module:function."""
    question = Question(
        candidate,
        suite,
        against,
        interpret,
        trusted,
        device,
        timeout_s=timeout_s,
        budget_s=budget_s,
        seed=seed,
        plugins=plugins,
    )
    # In a thread, so that the client's pings are answered meanwhile.
    return await asyncio.to_thread(_judged, question)


def _judged(question: Question) -> Judgement:
    with _ONE_AT_A_TIME:
        return judge(question, Silent()).judgement
