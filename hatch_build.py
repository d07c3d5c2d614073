"""Builds `streamer/native/walk.c` at `pip install`, where there is a C compiler; without one all works, only slower."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("streamer/native/walk.c")
LIBRARY = Path("streamer/native/_walk.so")
FLAGS = ("-std=gnu11", "-O2", "-shared", "-fPIC", "-pthread", "-fvisibility=default", "-Wall", "-Wextra")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """A wheel with the library is one for this platform; an editable installation has it in its own tree."""
        if self.target_name != "wheel":
            return
        library = Path(self.root) / LIBRARY
        library.unlink(missing_ok=True)
        reason = compiled(Path(self.root) / SOURCE, library)
        if reason is not None:
            self.app.display_warning(f"streamer is installed without its compiled inner loop: {reason}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(str(LIBRARY))


def compiled(source: Path, library: Path) -> str | None:
    """Compiles the library; None, or why there is none now."""
    compiler = shutil.which(os.environ.get("CC", "")) or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "there is no C compiler (cc)"
    fresh = library.with_suffix(".new")
    try:
        subprocess.run([compiler, *FLAGS, "-o", fresh, source], check=True, capture_output=True, timeout=120)
        os.replace(fresh, library)
    except subprocess.CalledProcessError as error:
        return error.stderr.decode(errors="replace").strip() or "the compiler failed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        fresh.unlink(missing_ok=True)
    return None
