"""A small source tree with the parts of a kernel that `kernel build` uses."""

from __future__ import annotations

import os
from pathlib import Path

from dumm_tools.images import features

_MAKEFILE = r"""VERSION = 7
PATCHLEVEL = 2
SUBLEVEL = 13
EXTRAVERSION =
NAME = Small

made := $(O)/include/config

alldefconfig:
	@mkdir -p $(made)
	@grep -vxFf lacking $(KCONFIG_ALLCONFIG) >$(O)/.config

prepare:
	@printf 'deps_config := \\\n\tKconfig \\\n' >$(made)/auto.conf.cmd
	@cp $(O)/.config $(made)/auto.conf
	@echo 7.2.13-dumm >$(made)/kernel.release

$(O)/main.o: main.c $(O)/.config
	@echo '  CC      main.o'
	@touch $@
	@if [ -e slow ]; then read never <slow; fi
	@$(CC) -Wall -c -o $@ $<

$(O)/linux: $(O)/main.o
	@$(CC) -o $@ $<
	@echo kernel/net/sham.ko >$(O)/modules.builtin
	@printf 'sham.alias=sham\0' >$(O)/modules.builtin.modinfo

linux: $(O)/linux

modules: linux
	@touch $(O)/extra.ko

modules_install:
	@mkdir -p $(INSTALL_MOD_PATH)/lib/modules/7.2.13-dumm/kernel
	@cp $(O)/extra.ko $(INSTALL_MOD_PATH)/lib/modules/7.2.13-dumm/kernel
	@ln -s $(O) $(INSTALL_MOD_PATH)/lib/modules/7.2.13-dumm/build

.PHONY: alldefconfig prepare linux modules modules_install
"""
_HELP = b" ".join(features.HELP.values()).decode()
_KCONFIG = """config BTRFS_FS
\ttristate "Btrfs"
\tdepends on BLOCK && \\
\t\tMOON
\thelp
\t  depends on nothing

config WANTED
\tbool
"""
#: A kernel, for those who only read it.
_MAIN = f"""#include <stdio.h>
int main(void) {{ puts("Linux version 7.2.13-dumm (%s) uml_dir= {_HELP}"); }}
"""


def make(directory: Path, text: str = "first") -> Path:
    """Make the tree in a new directory; `text` can be found in its kernel."""
    (directory / "arch/um").mkdir(parents=True)
    (directory / "arch/um/Makefile").touch()
    (directory / "Makefile").write_text(_MAKEFILE)
    (directory / "Kconfig").write_text(_KCONFIG)
    lack(directory)
    edit(directory, text)
    return directory


def edit(directory: Path, text: str) -> None:
    """Change the kernel, at a later time than make has seen."""
    main = directory / "main.c"
    then = main.stat().st_mtime_ns if main.exists() else 0
    main.write_text(_MAIN % text)
    if main.stat().st_mtime_ns <= then:
        os.utime(main, ns=(then + 1, then + 1))


def lack(directory: Path, *options: str) -> None:
    """Have the configuration drop some options, like `CONFIG_SMP=y`."""
    # No pattern of grep may be empty.
    (directory / "lacking").write_text("".join(f"{o}\n" for o in (*options, "-")))
