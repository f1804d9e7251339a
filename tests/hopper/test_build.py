"""Building: which compiler is found, when a library is rebuilt, and which machine code is refused."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from paths import ROOT

from attnbench.hopper import build as kernel_build
from attnbench.hopper import toolchain
from attnbench.hopper.build import BuildError, compile_library, is_stale, kernel_sources, read_build
from attnbench.hopper.toolchain import (
    Recipe,
    emulated_recipe,
    find_host_compiler,
    find_nvcc,
    hopper_recipe,
    included_files,
)
from attnbench.machine_code import disassembler as disassembler_module
from attnbench.machine_code.disassembler import ToolMissing, find_disassembler

HERE = Path(__file__).parent


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def fake_nvcc(path: Path, version: str) -> Path:
    return program(path, f'echo "Cuda compilation tools, release {version[:4]}, V{version}"')


def test_nvcc_is_found_in_order(tmp_path):
    chosen = fake_nvcc(tmp_path / "chosen" / "my-nvcc", "13.0.1")
    on_path = fake_nvcc(tmp_path / "path" / "nvcc", "13.0.2")
    home = fake_nvcc(tmp_path / "home" / "bin" / "nvcc", "13.0.3")
    wheel = fake_nvcc(tmp_path / "site" / "nvidia" / "cu13" / "bin" / "nvcc", "13.0.4")
    run_time = wheel.parent.parent / "lib" / "libcudart_static.a"
    run_time.parent.mkdir()
    run_time.touch()
    environ = {"ATTNBENCH_NVCC": str(chosen), "PATH": str(on_path.parent), "CUDA_HOME": str(home.parent.parent)}
    sites = [tmp_path / "site"]
    assert find_nvcc(environ, sites).version == "13.0.1"
    del environ["ATTNBENCH_NVCC"]
    assert find_nvcc(environ, sites).path == on_path
    environ["PATH"] = str(tmp_path)
    assert find_nvcc(environ, sites).path == home
    environ["CUDA_HOME"] = str(tmp_path / "none")
    found = find_nvcc(environ, sites)
    assert found.path == wheel
    assert found.library_dirs == (run_time.parent,)


def test_the_pinned_nvcc_of_this_environment_comes_before_another_one(tmp_path):
    """Whoever installed it has the compiler that limits and figures speak of; only ATTNBENCH_NVCC overrules that."""
    other = fake_nvcc(tmp_path / "path" / "nvcc", "13.0.2")
    wheel = fake_nvcc(tmp_path / "site" / "nvidia" / "cu13" / "bin" / "nvcc", toolchain.PINNED_NVCC)
    environ, sites = {"PATH": str(other.parent)}, [tmp_path / "none", tmp_path / "site"]
    assert find_nvcc(environ, sites).path == wheel
    assert find_nvcc({**environ, "ATTNBENCH_NVCC": str(other)}, sites).path == other
    assert find_nvcc(environ, [tmp_path / "none"]).path == other


@pytest.mark.parametrize(("lib64", "library_dirs"), [(False, ("lib",)), (True, ())])
def test_the_run_time_of_wheels_is_found_wherever_they_lie(tmp_path, lib64, library_dirs):
    """A wheel's nvcc outside site-packages, named by ATTNBENCH_NVCC or through a link on PATH; toolkits have lib64."""
    root = tmp_path / "target" / "nvidia" / "cu13"
    nvcc = fake_nvcc(root / "bin" / "nvcc", "13.0.4")
    (root / "lib").mkdir()
    (root / "lib" / "libcudart_static.a").touch()
    if lib64:
        (root / "lib64").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").symlink_to(nvcc)
    wanted = tuple(root / name for name in library_dirs)
    assert find_nvcc({"ATTNBENCH_NVCC": str(nvcc)}, []).library_dirs == wanted
    assert find_nvcc({"PATH": str(tmp_path / "bin")}, []).library_dirs == wanted


def test_the_cause_of_a_failed_build_is_the_first_line(tmp_path):
    """nvcc prints what ptxas did first, and ld's words last."""
    printed = (
        "ptxas info    : Used 90 registers\n/usr/bin/ld: cannot find -lcudart_static\ncollect2: error: ld returned 1"
    )
    compiler = program(tmp_path / "nvcc", f"printf '{printed}\\n' >&2; exit 1")
    recipe = replace(emulated_recipe(HERE / "tiny.cu", build_dir=tmp_path / "build"), compiler=compiler)
    with pytest.raises(BuildError) as caught:
        compile_library(recipe)
    first, *rest = str(caught.value).splitlines()
    assert first == f"tiny.cu: /usr/bin/ld: cannot find -lcudart_static ({compiler} failed with exit status 1)"
    assert rest == printed.splitlines()[1:]


def test_missing_tools_say_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(disassembler_module, "DEFAULT_CUDA_HOME", tmp_path)
    with pytest.raises(ToolMissing, match="pip install --no-deps nvidia-cuda-nvcc==13.5.37"):
        find_nvcc({"PATH": str(tmp_path)}, [])
    with pytest.raises(ToolMissing, match="no cuobjdump and no nvdisasm: pip install"):
        find_disassembler({"PATH": str(tmp_path)}, [])
    with pytest.raises(ToolMissing, match="ATTNBENCH_NVCC=/nowhere/nvcc is not a file"):
        find_nvcc({"ATTNBENCH_NVCC": "/nowhere/nvcc", "PATH": os.environ["PATH"]})
    with pytest.raises(ToolMissing, match="set CXX"):
        find_host_compiler({"PATH": str(tmp_path)})
    broken = program(tmp_path / "nvcc", "echo no version here")
    with pytest.raises(ToolMissing, match="says nothing about a version"):
        find_nvcc({"PATH": str(broken.parent)}, [])


def test_the_installers_folder_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(disassembler_module, "DEFAULT_CUDA_HOME", tmp_path / "cuda")
    installed = fake_nvcc(tmp_path / "cuda" / "bin" / "nvcc", "13.0.5")
    assert find_nvcc({"PATH": ""}, []).path == installed


def test_the_makefile_installs_the_wheels_that_the_message_names():
    makefile = (ROOT / "Makefile").read_text()
    assert [wheel for wheel in toolchain.NVCC_WHEELS if wheel not in makefile] == []


def test_disassembler_from_triton(tmp_path, monkeypatch):
    monkeypatch.setattr(disassembler_module, "DEFAULT_CUDA_HOME", tmp_path)
    folder = tmp_path / "triton" / "backends" / "nvidia" / "bin"
    for name in ("cuobjdump", "nvdisasm"):
        program(folder / name, "true")
    assert find_disassembler({"PATH": ""}, [tmp_path]).nvdisasm == folder / "nvdisasm"


@pytest.fixture
def small(tmp_path) -> Recipe:
    """A C++ library of one source and one header, in a folder of its own."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "answer.h").write_text("#define ANSWER 42\n")
    source = tmp_path / "small.cu"
    source.write_text('#include <answer.h>\n#include <cstdint>\nextern "C" int32_t answer() { return ANSWER; }\n')
    return emulated_recipe(source, build_dir=tmp_path / "build", include_dirs=[tmp_path / "include"])


def test_rebuilt_only_when_content_changes(small):
    first = compile_library(small)
    written = small.library.stat().st_mtime_ns
    assert first.compile_s > 0
    os.utime(small.source)
    assert compile_library(small) == first
    assert small.library.stat().st_mtime_ns == written

    header = small.source.parent / "include" / "answer.h"
    header.write_text("#define ANSWER 43\n")
    second = compile_library(small)
    assert second.digest != first.digest
    assert small.library.stat().st_mtime_ns != written
    assert read_build(small.library) == second


def test_flags_compiler_and_a_new_header_in_front_change_the_hash(small, tmp_path):
    digest = small.digest()
    assert replace(small, flags=(*small.flags, "-DMORE")).digest() != digest
    assert replace(small, compiler_version="another").digest() != digest
    assert replace(small, library=tmp_path / "elsewhere.so").digest() == digest
    front = tmp_path / "front"
    front.mkdir()
    shadowed = replace(small, include_dirs=(front, *small.include_dirs))
    assert shadowed.digest() == digest
    (front / "answer.h").write_text("#define ANSWER 1\n")
    assert shadowed.digest() != digest


def test_a_damaged_record_or_a_lost_library_is_rebuilt(small):
    first = compile_library(small)
    small.sidecar.write_text("{")
    assert read_build(small.library) is None
    assert compile_library(small).digest == first.digest
    small.library.unlink()
    compile_library(small)
    assert small.library.is_file()


def test_a_compile_error_keeps_the_compilers_words(small):
    before = compile_library(small)
    small.source.write_text("int broken( {\n")
    with pytest.raises(BuildError, match="small.cu: .* failed with exit status 1(.|\n)*expected"):
        compile_library(small)
    assert read_build(small.library) == before and before.digest != small.digest(), "the old library stays, as old"


def test_a_flood_of_errors_is_cut_and_kept(small):
    small.source.write_text("\n".join(f"broken{index}();" for index in range(50)))
    with pytest.raises(BuildError, match=r"\.\.\. \d+ more lines in .*small\.log$") as caught:
        compile_library(small)
    assert len(str(caught.value).splitlines()) < 25
    assert "broken49" in small.library.with_suffix(".log").read_text()


def test_every_header_of_ours_counts():
    names = [name for name, _ in included_files(HERE / "tiny.cu", [toolchain.KERNELS / "include"])]
    expected = {"tiny.cu", "tiny_answer.h", "attnbench/host.h", "attnbench/abi.h", "attnbench/ptx/wgmma.cuh"}
    assert expected <= set(names)
    assert len(names) == len(set(names))
    assert "cuda.h" not in names


def test_one_broken_file_does_not_stop_the_others(tmp_path, monkeypatch):
    texts = {"fwd_a": "int a( {", "fwd_b": 'extern "C" int b() { return 1; }', "fwd_c": "int c( {"}
    for name, text in texts.items():
        (tmp_path / f"{name}.cu").write_text(text)
    monkeypatch.setattr(kernel_build, "KERNELS", tmp_path)
    monkeypatch.setattr(kernel_build, "hopper_recipe", lambda source: emulated_recipe(source, build_dir=tmp_path))
    built = []
    with pytest.raises(BuildError) as caught:
        kernel_build.build_all(report=built.append)
    assert [build.name for build in built] == ["fwd_b"]
    assert "fwd_a.cu:" in str(caught.value) and "fwd_c.cu:" in str(caught.value)
    assert [build.name for build in kernel_build.build_all(["fwd_b"])] == ["fwd_b"]


def test_what_the_pinned_nvcc_made_elsewhere_stays(tmp_path, monkeypatch):
    """A machine with another nvcc, or with none, is brought libraries; only a change of the sources drops them."""
    source, library = tmp_path / "fwd_a.cu", tmp_path / "fwd_a.so"
    source.write_text('extern "C" int a() { return 1; }\n')
    compiled, reported = [], []

    def recipe_here(source):
        compiled.append(source.name)
        return emulated_recipe(source, build_dir=tmp_path)

    monkeypatch.delenv("ATTNBENCH_NVCC", raising=False)
    monkeypatch.setattr(kernel_build, "KERNELS", tmp_path)
    monkeypatch.setattr(kernel_build, "library_path", lambda name: tmp_path / f"{name}.so")
    monkeypatch.setattr(kernel_build, "hopper_recipe", recipe_here)
    brought = replace(
        compile_library(replace(emulated_recipe(source, build_dir=tmp_path), library=library)),
        compiler=f"nvcc {toolchain.PINNED_NVCC}",
        flags=toolchain.NVCC_FLAGS,
    )
    library.with_suffix(".json").write_text(json.dumps(asdict(brought)))
    assert kernel_build.build_all(report=reported.append) == [brought] == reported and compiled == []
    monkeypatch.setenv("ATTNBENCH_NVCC", "/somewhere/nvcc")
    assert kernel_build.build_all() != [brought] and compiled == ["fwd_a.cu"]
    monkeypatch.delenv("ATTNBENCH_NVCC")
    source.write_text('extern "C" int a() { return 2; }\n')
    assert kernel_build.build_all() != [brought] and compiled == ["fwd_a.cu"] * 2


def test_an_edit_while_it_compiles_leaves_it_stale(tmp_path, monkeypatch):
    source = tmp_path / "fwd_small.cu"
    source.write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(kernel_build, "KERNELS", tmp_path)
    real_run = kernel_build.subprocess.run

    def edit_and_run(command, **options):
        done = real_run(command, **options)
        source.write_text('extern "C" int one() { return 2; }\n')
        return done

    recipe = emulated_recipe(source, build_dir=tmp_path / "build")
    monkeypatch.setattr(kernel_build.subprocess, "run", edit_and_run)
    assert is_stale(compile_library(recipe))


def test_unknown_kernel_name():
    with pytest.raises(BuildError, match='no kernel "fwd_nothing" in .*; there are .*fwd_simple'):
        kernel_sources(["fwd_nothing"])


def test_stale_when_the_source_changed(tmp_path, monkeypatch):
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    source = kernels / "fwd_small.cu"
    source.write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(kernel_build, "KERNELS", kernels)
    build = compile_library(emulated_recipe(source, build_dir=tmp_path / "build"))
    assert not is_stale(build)
    source.write_text('extern "C" int one() { return 2; }\n')
    assert is_stale(build)
    source.unlink()
    assert is_stale(build)


def test_real_build_is_recorded(tiny_library):
    build = read_build(tiny_library.path)
    assert build.name == "tiny" and build.arch == "sm_90a" and build.compiler.startswith("nvcc ")
    assert [row["kernel"] for row in build.variants] == ["tiny"]
    assert "Compiling entry function 'tiny' for 'sm_90a'" in build.log


def test_a_library_that_is_no_attention_kernel_has_no_variants(nvcc, tmp_path):
    source = tmp_path / "probe.cu"
    source.write_text('extern "C" __attribute__((visibility("default"))) int probe() { return 1; }\n')
    assert compile_library(hopper_recipe(source, build_dir=tmp_path / "build")).variants == ()


def test_serialized_wgmma_is_a_build_error(nvcc, tmp_path):
    recipe = hopper_recipe(HERE / "tiny.cu", build_dir=tmp_path)
    recipe = replace(recipe, flags=(*recipe.flags, "-DTINY_SERIALIZED"))
    with pytest.raises(BuildError, match=r"tiny.cu: ptxas serializes wgmma(.|\n)*\(C7510\)"):
        compile_library(recipe)
    assert not recipe.library.exists()


def test_spills_in_the_main_loop_are_a_build_error(nvcc, disassembler, tmp_path):
    recipe = hopper_recipe(HERE / "tiny.cu", build_dir=tmp_path)
    recipe = replace(recipe, flags=(*recipe.flags, "-DTINY_SPILL"))
    with pytest.raises(BuildError, match=r"registers are spilled in the main loop:\ntiny: \d+ LDL/STL"):
        compile_library(recipe)


def test_builds_with_the_wheels_layout(nvcc, tmp_path):
    """A library folder of its own is handed to the linker, as the PyPI wheels need."""
    recipe = replace(hopper_recipe(HERE / "tiny.cu", build_dir=tmp_path), library_dirs=(Path("/wheels/lib"),))
    assert "-L/wheels/lib" in recipe.command(Path("out.so"))
    assert recipe.digest() == replace(recipe, library_dirs=()).digest()


def test_no_torch_at_import():
    import subprocess
    import sys

    names = ("hopper.build", "hopper.inspect", "hopper.recorded", "hopper.library", "cli.kernels", "backends.hopper")
    code = f"import sys, {', '.join(f'attnbench.{name}' for name in names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_build_facts_tell_the_compiler_and_hash_the_libraries(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_build, "BUILD", tmp_path)
    assert kernel_build.build_facts()["kernels"] == {}
    (tmp_path / kernel_build.ARCH).mkdir()
    (tmp_path / kernel_build.ARCH / "fwd_x.so").write_bytes(b"machine code")
    (tmp_path / kernel_build.ARCH / "fwd_y.partial.so").write_bytes(b"half of it, as it is being built")
    digest = hashlib.sha256(b"machine code").hexdigest()[:16]
    assert kernel_build.build_facts()["kernels"] == {"fwd_x": digest}

    def without_nvcc():
        raise ToolMissing("no nvcc")

    monkeypatch.setattr(kernel_build, "find_nvcc", without_nvcc)
    assert kernel_build.build_facts()["nvcc"] is None
