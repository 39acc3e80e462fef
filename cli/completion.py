"""`tfm completion`: the shell script that completes commands, options and names."""

from __future__ import annotations

import click

from . import options as opt

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", cls=opt.Command)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str, quiet: bool) -> None:
    """Print the completion script for SHELL. To install it:

    \b
    bash: echo 'source <(tfm completion bash)' >> ~/.bashrc
    zsh:  echo 'source <(tfm completion zsh)' >> ~/.zshrc (below compinit)
    fish: tfm completion fish > ~/.config/fish/completions/tfm.fish
    """
    from click.shell_completion import get_completion_class

    from .main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "tfm", "_TFM_COMPLETE").source(), nl=False)
