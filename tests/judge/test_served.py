"""The judge as a tool of the Model Context Protocol, asked by that protocol's own client."""

import json
import sys

import jsonschema
import loop_steps
import pytest
from click.testing import CliRunner

from attnbench.cli.verbs import main
from attnbench.judge.judgement import json_schema


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    done = CliRunner().invoke(main, ["judge", "--mcp"])
    assert done.exit_code == 2 and "pip install 'attnbench[mcp]'" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.full
def test_a_client_gets_the_same_object(tmp_path):
    """Over stdin and stdout of a server process, as an agent starts it."""
    pytest.importorskip("mcp", reason="not run: the extra attnbench[mcp] is not installed")
    import anyio
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    (tmp_path / "kernel.py").write_text(loop_steps.WRONG_MASK)
    (tmp_path / "loop.yaml").write_text(loop_steps.SUITE)
    server = StdioServerParameters(command=sys.executable, args=["-m", "attnbench", "judge", "--mcp"], cwd=tmp_path)

    async def ask(arguments):
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            await session.initialize()
            (tool,) = (await session.list_tools()).tools
            return tool, await session.call_tool("judge", arguments)

    arguments = {"candidate": "kernel.py:mine", "suite": "loop.yaml", "device": "cpu", "trusted": True}
    tool, answer = anyio.run(ask, arguments)
    told = answer.structured_content
    jsonschema.validate(told, json_schema())
    assert tool.name == "judge" and not answer.is_error
    assert told["verdict"] == "incorrect" and told["failed"][0]["kind"] == "incorrect" and told["schema"] == 1
    assert json.loads(answer.content[0].text) == told
    tool, answer = anyio.run(ask, {"candidate": "missing.py:mine"})
    assert answer.structured_content["verdict"] == "error" and "no file" in answer.structured_content["reason"]
