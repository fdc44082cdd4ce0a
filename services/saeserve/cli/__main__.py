"""The entry point: commands, and how errors are printed."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from saeserve.cli import datasets, interchange, jobs, logs, models, plan, serving, submit, tokens
from saeserve.cli.doctor import doctor
from saeserve.cli.features import features
from saeserve.cli.gc import gc
from saeserve.cli.hub import commands as hub
from saeserve.cli.joining import joined
from saeserve.cli.output import print_refusal
from saeserve.cli.presets import presets
from saeserve.cli.report import report
from saeserve.cli.sending import send
from saeserve.cli.steering import annotate, steer
from saeserve.cli.tracking.commands import export_metrics
from saeserve.cli.up import up
from saeserve.client.errors import ClientError
from saeserve.client.refusals import local_file
from saeserve.errors import ServiceError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Help and errors as plain lines: boxes cut words on narrow terminals and in logs.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(up)
app.add_typer(submit.app, name="submit")
app.add_typer(plan.app, name="plan")
app.add_typer(jobs.app, name="jobs")
app.add_typer(datasets.app, name="datasets")
jobs.app.command("logs")(logs.logs)
jobs.app.command("download")(logs.download_job)
jobs.app.command("metrics")(logs.download_metrics)
models.app.command("features")(features)
jobs.app.command("export-metrics")(export_metrics)
models.app.command("download")(interchange.download_model)
models.app.command("import")(joined(interchange.import_model, send))
models.app.command("export")(joined(interchange.export_model, send))
models.app.command("hub-push")(hub.hub_push)
models.app.command("hub-pull")(joined(hub.hub_pull, send))
app.add_typer(models.app, name="models")
app.command()(serving.encode)
app.command()(serving.decode)
app.command()(serving.reconstruct)
app.command()(steer)
app.command()(annotate)
app.command()(report)
app.command()(presets)
app.add_typer(tokens.app, name="token")
app.command()(gc)
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"saeserve {importlib.metadata.version('saeserve')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train sparse autoencoders as queued jobs, and serve them."""


def main() -> None:
    """Run the command line; refusals are one line on stderr and exit code 1."""
    try:
        app()
    except ClientError as error:
        print_refusal(error.reason or error.code, str(error), error.violations)
        sys.exit(1)
    except ServiceError as error:
        print_refusal(error.code, error.text())
        sys.exit(1)
    except OSError as error:
        # A file of this machine that a command was given; what it names is the user's to mend.
        refusal = local_file(f"{error.filename or 'a file'}: {error.strerror or error}")
        print_refusal(refusal.reason, str(refusal))
        sys.exit(1)


if __name__ == "__main__":
    main()
