"""What is imported when: help without torch, encoders without what only other uses need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pretrained

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
# What takes long to import or belongs to training, the report or another interface.
HEAVY = {"sentencepiece", "sklearn", "matplotlib", "scipy", "speechbrain", "transformers", "jinja2"}


def modules_after(code):
    """Return the names of the modules that a new interpreter has after some code."""
    code += "\nimport json, sys; print(); print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_is_printed_without_torch():
    code = "import runpy, sys; sys.argv[1:] = ['--help']\n"
    code += "try: runpy.run_module('pretrained', run_name='__main__')\nexcept SystemExit: pass"
    found = modules_after(code)
    assert "pretrained.toolkits" in found
    assert not found & {"torch", "numpy", "soundfile", "safetensors", *HEAVY}


IMPORTS = """
import json, os, sys, torch
for name in {names}:
    if os.fork() == 0:  # with nothing but torch, which all of them need
        exec(f"from pretrained import {{name}}")
        print("\\n" + json.dumps([name, list(sys.modules)]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each name is imported by a fork")
def test_a_name_is_imported_without_what_other_uses_need():
    command = [sys.executable, "-c", IMPORTS.format(names=pretrained.__all__)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = dict(map(json.loads, filter(None, done.stdout.splitlines())))
    assert found.keys() == set(pretrained.__all__)
    for name, modules in found.items():
        assert not HEAVY & set(modules), name
        assert any(module.startswith("pretrained.") for module in modules)


def test_audio_of_16_khz_is_read_without_scipy(tmp_path):
    code = f"""
import numpy as np, soundfile
from pretrained.audio import check_audio, read_blocks, read_speech
soundfile.write({str(tmp_path / "a.wav")!r}, np.sin(np.arange(16000)), 16000)
check_audio({str(tmp_path / "a.wav")!r})
list(read_blocks({str(tmp_path / "a.wav")!r}))
read_speech({str(tmp_path / "a.wav")!r})
"""
    assert not modules_after(code) & HEAVY


def test_the_package_names_what_it_offers():
    assert set(pretrained.__all__) <= set(dir(pretrained))
    for name in pretrained.__all__:
        assert getattr(pretrained, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'pretrained' has no attribute 'Learn3Diss'"):
        pretrained.Learn3Diss  # noqa: B018
