"""The command line, one file per command: options, help, and a call of `tfmoe.tasks`.

Nothing here imports TensorFlow: `tfmoe.tasks` loads it when a command starts to work.
"""

import sys
from typing import Annotated

import typer

from tfmoe import __version__
from tfmoe.cli import (
    ablate,
    compare,
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
    prune,
    tables,
    train,
    translate,
    upcycle,
)
from tfmoe.cli.exit_status import Commands, interruptions_recorded
from tfmoe.cli.output import discard_output, escape_unencodable

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
app.command()(upcycle.upcycle)
app.command()(prune.prune)
app.command()(ngram.ngram)
app.command()(demo.demo)
app.command()(ablate.ablate)
app.command()(compare.compare)


def _version(is_given: bool):
    if is_given:
        print(f"tfmoe {__version__}")
        raise typer.Exit


@app.callback()
def tfmoe(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
):
    """Train, evaluate and export sparsely-gated mixtures of experts: language models and
    translation models.

    \b
    Examples:
      tfmoe demo                            compare mixtures with dense models of the same cost
      tfmoe configs                         list the shipped configs
      tfmoe train demo/grammars             train a model
      tfmoe doctor runs/grammars            show what is wrong with a run, and what to change
      tfmoe describe demo/language_model    count the operations and parameters of a model
      tfmoe tables                          compare such counts with the paper's tables
      tfmoe COMMAND --help                  show the options of a command, with examples

    CONFIG is a YAML file or the name of a shipped config. --set changes any key of it:
    --set model.d_model=128 --set "model.blocks[1].num_experts=64".

    Exit status: 0 for success, 2 for an error in the input, 1 for a full disk, 130 after Ctrl-C.
    Errors are printed on standard error; TFMOE_DEBUG=1 adds the traceback.
    """


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit status.

    Args:
        arguments: list of strings; `None` for the arguments of the process.
    """
    escape_unencodable(sys.stdout, sys.stderr)
    with interruptions_recorded():
        try:
            app(args=arguments, prog_name="tfmoe")
        finally:
            try:
                sys.stdout.flush()
            except BrokenPipeError:
                discard_output()
