"""Programs in place of a guest's kernel."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dumm_tools.images import features
from support import PATIENCE, TOP


def compiled(source: str, target: Path) -> Path:
    """Compile a program in `tests`, with the texts that tell what a kernel can do."""
    texts = target.with_name(f"{target.name}.c")
    body = "\\0".join(text.decode() for text in features.HELP.values())
    texts.write_text(f'extern const char help[];\nconst char help[] = "{body}";\n')
    compiler = os.environ.get("CC", "gcc").split()
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-static"]
    subprocess.run(
        [*compiler, *flags, "-o", target, TOP / "tests" / source, texts],
        check=True,
        timeout=PATIENCE,
    )
    texts.unlink()
    return target
