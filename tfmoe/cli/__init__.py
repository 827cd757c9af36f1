"""The command line, one file per subcommand: options, help, and a call of `tfmoe.tasks`.

Nothing here imports TensorFlow: `tfmoe.tasks` loads it when a command begins to work.
"""

import sys
from typing import Annotated

import typer

from tfmoe import __version__
from tfmoe.cli import (
    ablate,
    configs,
    demo,
    describe,
    doctor,
    evaluate,
    export,
    inspect,
    launch,
    ngram,
    prepare,
    tables,
    train,
    translate,
)
from tfmoe.cli.endings import Commands, interruptions_noted
from tfmoe.cli.output import leave_pipe, show_all_characters

app = typer.Typer(
    name="tfmoe",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(configs.configs)
app.command()(describe.describe)
app.command()(tables.tables)
app.command()(prepare.prepare)
app.command()(train.train)
app.command()(launch.launch)
app.command()(evaluate.evaluate)
app.command()(translate.translate)
app.command()(export.export)
app.command()(inspect.inspect)
app.command()(doctor.doctor)
app.command()(ngram.ngram)
app.command()(demo.demo)
app.command()(ablate.ablate)


def _version(wanted: bool):
    if wanted:
        print(f"tfmoe {__version__}")
        raise typer.Exit


@app.callback()
def tfmoe(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
):
    """Sparsely-gated mixtures of experts: language models and translation, from text to perplexity
    and BLEU.

    \b
    A first look:
      tfmoe demo                                 mixtures and dense models, in a few minutes
      tfmoe configs                              what there is to train
      tfmoe describe demo/language_model         what a model costs
      tfmoe tables                               the same for the paper's models, beside its figures
      tfmoe doctor runs/demo/moe                 what goes wrong in a run, and what to change
      tfmoe COMMAND --help                       options, with examples

    CONFIG is a YAML file or the name of a shipped config. Any key of it can be changed on the
    command line: --set model.d_model=128 --set "model.blocks[1].num_experts=64".

    Mistakes are reported on standard error with exit status 2, a full disk with 1;
    TFMOE_DEBUG=1 adds the traceback. Ctrl-C ends a command with 130.
    """


def main(arguments=None):
    """Runs the command line and ends the process with its exit status.

    Args:
        arguments: list of strings; `None` for those of the process.
    """
    show_all_characters(sys.stdout, sys.stderr)
    with interruptions_noted():
        try:
            app(args=arguments, prog_name="tfmoe")
        finally:
            try:
                sys.stdout.flush()
            except BrokenPipeError:
                leave_pipe()
