"""The entry point: commands, and how errors are told."""

from __future__ import annotations

import sys

import typer

from saeserve.cli import datasets, interchange, jobs, logs, models, submit
from saeserve.cli.doctor import doctor
from saeserve.cli.gc import gc
from saeserve.cli.output import errors, styled
from saeserve.cli.plan import plan
from saeserve.cli.up import up
from saeserve.client.errors import ClientError
from saeserve.platform.errors import ServiceError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train sparse autoencoders as queued jobs, and serve them.",
)
app.command()(up)
app.add_typer(submit.app, name="submit")
app.command()(plan)
app.add_typer(jobs.app, name="jobs")
app.add_typer(datasets.app, name="datasets")
jobs.app.command("logs")(logs.logs)
jobs.app.command("download")(logs.download_job)
models.app.command("download")(interchange.download_model)
models.app.command("import")(interchange.import_model)
models.app.command("export")(interchange.export_model)
app.add_typer(models.app, name="models")
app.command()(models.encode)
app.command()(gc)
app.command()(doctor)


def main() -> None:
    """Run the command line; refusals are one line on stderr and exit code 1."""
    try:
        app()
    except ClientError as error:
        errors.print(styled("red", error.reason or error.code, f": {error}"))
        sys.exit(1)
    except ServiceError as error:
        errors.print(styled("red", error.reason, f": {error.text()}"))
        sys.exit(1)


if __name__ == "__main__":
    main()
