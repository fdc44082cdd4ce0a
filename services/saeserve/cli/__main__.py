"""The entry point: commands, and how errors are told."""

from __future__ import annotations

import sys

import typer

from saeserve.cli import datasets, interchange, jobs, models, submit
from saeserve.cli.doctor import doctor
from saeserve.cli.output import errors
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
models.app.command("import")(interchange.import_model)
models.app.command("export")(interchange.export_model)
app.add_typer(models.app, name="models")
app.command()(models.encode)
app.command()(doctor)


def main() -> None:
    """Run the command line; refusals are one line on stderr and exit code 1."""
    try:
        app()
    except ClientError as error:
        errors.print(f"[red]{error.reason or error.code}[/red]: {error}", highlight=False)
        sys.exit(1)
    except ServiceError as error:
        errors.print(f"[red]{error.reason}[/red]: {error.text()}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
