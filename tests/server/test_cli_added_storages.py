"""`spoolway storage`: storages added, shown, changed and forgotten from the command line."""

import json
from contextlib import asynccontextmanager

import pytest
from typer.testing import CliRunner

from spoolway import LoginField, NotFoundError, ProviderType, StorageStats
from spoolway_server.cli import admin, app, logins
from spoolway_server.cli.exits import ExitCode
from tests.server.test_cli_storages import storage


def field(name, *, required=True, secret=False):
    return LoginField(name=name, description=f"The {name}.", required=required, secret=secret)


def kind(name, *fields, **facts):
    usual = {"description": "", "sign_in_field": "", "unavailable": ""}
    return ProviderType(name=name, login_fields=fields, **(usual | facts))


TYPES = [
    kind(
        "cloud",
        field("key"),
        field("secret", secret=True),
        field("token", secret=True),
        sign_in_field="token",
    ),
    kind("mongodb", unavailable="install it with: pip install ..."),
    kind("server", field("user"), field("password", secret=True), field("database", required=False)),
    kind("sqlite", field("path")),
]


class FakeAdmin:
    """Notes what it is asked for."""

    def __init__(self):
        self.asked = []

    async def provider_types(self):
        return TYPES

    async def storage(self, name):
        if name == "missing":
            raise NotFoundError("there is no storage missing")
        return storage(name, type="server", read_only=False, owner="ada")

    async def storage_stats(self, name):
        return StorageStats(backends=2, jobs={"QUEUED": 3, "DONE": 1}, unfinished_jobs=3, sessions=1)

    async def sign_in_page(self, type_name, login):
        self.asked.append(("page", type_name, login))
        return "https://cloud.example/authorize"

    async def add_storage(self, name, type_name, login, **facts):
        self.asked.append(("add", name, type_name, login, facts))
        return storage(name, type=type_name, read_only=False)

    async def update_storage(self, name, **facts):
        self.asked.append(("update", name, facts))
        return storage(name, read_only=False)

    async def activate_storage(self, name):
        return storage(name, active=True)

    async def deactivate_storage(self, name):
        return storage(name, active=False)

    async def delete_storage(self, name, **facts):
        self.asked.append(("delete", name, facts))


@pytest.fixture
def fake(monkeypatch):
    made = FakeAdmin()

    @asynccontextmanager
    async def opened(_connection):
        yield made

    monkeypatch.setattr(admin, "open_admin", opened)
    return made


@pytest.fixture
def somebody(monkeypatch):
    """Somebody sits there and answers questions."""
    monkeypatch.setattr(logins, "can_ask", lambda: True)
    monkeypatch.setattr("spoolway_server.cli.storages.can_ask", lambda: True)


def run(*command, **options):
    return CliRunner().invoke(app, ["storage", *command], **options)


def test_a_storage_is_added_from_options(fake):
    """Everything is given: nobody is asked."""
    result = run("add", "sqlite", "lab", "--set", "path=/data/lab.sqlite", "--description", "new", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["name"] == "lab"
    facts = {"description": "new", "owner": "", "active": True}
    assert fake.asked == [("add", "lab", "sqlite", {"path": "/data/lab.sqlite"}, facts)]


@pytest.mark.usefixtures("somebody")
def test_what_is_missing_is_asked_for_and_secrets_are_not_shown(fake):
    """The password is asked for without being echoed; what is optional is not asked for."""
    result = run("add", "server", input="ada\ncorrect-horse\nlab\n")

    assert result.exit_code == 0
    [(_, name, _, login, _)] = fake.asked
    assert (name, login) == ("lab", {"user": "ada", "password": "correct-horse"})
    assert "correct-horse" not in result.output


def test_secrets_come_from_the_environment_or_a_file(fake, tmp_path):
    """Each field from another place; a file's last line break is none of it."""
    (tmp_path / "secret").write_text("correct-horse\n")

    result = run(
        "add", "server", "lab", "--from-env", "user=WHO", "--from-file", f"password={tmp_path / 'secret'}",
        env={"WHO": "ada"},
    )  # fmt: skip

    assert result.exit_code == 0
    assert fake.asked[0][3] == {"user": "ada", "password": "correct-horse"}


@pytest.mark.parametrize("command", [("add", "server", "lab"), ("update", "lab")])
def test_a_secret_on_the_command_line_is_refused(fake, command):
    """Others can see it there; the way out is said, the secret not repeated."""
    result = run(*command, "--set", "password=correct-horse")

    assert result.exit_code == ExitCode.USAGE
    assert "--from-env password=VARIABLE" in result.stderr
    assert "correct-horse" not in result.stderr
    assert fake.asked == []


def test_where_nobody_can_be_asked_the_field_is_named(fake):
    """A script that gives too little fails with what to give, and how."""
    result = run("add", "server", "lab", "--set", "user=ada", input="")

    assert result.exit_code == ExitCode.USAGE
    assert "Give password by --from-env or --from-file" in result.stderr
    assert fake.asked == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--set", "paht=x"), "no such field"),
        (("--set", "path"), "--set takes FIELD=..."),
        (("--from-env", "path=NOT_SET_AT_ALL"), "NOT_SET_AT_ALL is not set"),
        (("--from-file", "path=/no/such/file"), "/no/such/file can't be read"),
    ],
)
def test_wrong_options_are_said(fake, options, problem):
    """Each mistake ends the command before anything is sent."""
    result = run("add", "sqlite", "lab", *options)

    assert result.exit_code == ExitCode.USAGE
    assert problem in result.stderr
    assert fake.asked == []


@pytest.mark.usefixtures("fake")
def test_a_type_must_be_there_and_usable():
    """An unknown one lists those there are; one without its package says what to install."""
    unknown = run("add", "sqlit", "lab")
    unavailable = run("add", "mongodb", "lab")

    assert unknown.exit_code == ExitCode.NOT_FOUND
    assert "There are: cloud, mongodb, server, sqlite" in unknown.stderr
    assert unavailable.exit_code == ExitCode.REFUSED
    assert "pip install" in unavailable.stderr


@pytest.mark.usefixtures("somebody")
def test_an_account_is_signed_in_to(fake):
    """The page's address is shown, and its code stands for the refresh token; the server exchanges it."""
    result = run("add", "cloud", "lab", "--set", "key=k", input="s\nthe-code\n")

    assert result.exit_code == 0
    assert "https://cloud.example/authorize" in result.stdout
    assert fake.asked[0] == ("page", "cloud", {"key": "k", "secret": "s"})
    assert fake.asked[1][3] == {"key": "k", "secret": "s", "authorization_code": "the-code"}
    assert "the-code" not in result.output


@pytest.mark.usefixtures("somebody")
def test_a_token_that_is_given_needs_no_signing_in(fake):
    """Who has a refresh token already is shown no page."""
    result = run("add", "cloud", "lab", "--set", "key=k", "--from-env", "secret=S", "--from-env", "token=T",
                 env={"S": "s", "T": "t"})  # fmt: skip

    assert result.exit_code == 0
    assert [one[0] for one in fake.asked] == ["add"]
    assert fake.asked[0][3] == {"key": "k", "secret": "s", "token": "t"}


@pytest.mark.usefixtures("somebody")
def test_one_field_of_a_login_is_changed(fake):
    """Only what is given is sent."""
    result = run("update", "lab", "--ask", "password", "--owner", "bob", "--etag", "7", input="new\n")

    assert result.exit_code == 0
    facts = {"etag": "7", "description": None, "owner": "bob", "login_fields": {"password": "new"}}
    assert fake.asked == [("update", "lab", facts)]


@pytest.mark.usefixtures("fake")
def test_an_update_of_nothing_is_a_mistake():
    """It says what could be changed."""
    assert run("update", "lab").exit_code == ExitCode.USAGE


@pytest.mark.usefixtures("fake")
def test_a_storage_is_shown_with_what_lies_in_it():
    """For people and for programs."""
    people = run("show", "lab")
    document = json.loads(run("show", "lab", "--json").stdout)

    assert "3 QUEUED, 1 DONE" in people.stdout
    assert document["storage"]["name"] == "lab"
    assert document["stats"]["jobs"] == {"QUEUED": 3, "DONE": 1}
    assert run("show", "missing").exit_code == ExitCode.NOT_FOUND


@pytest.mark.usefixtures("fake")
def test_a_storage_is_switched_off_and_on():
    """The answer shows how it is now."""
    assert "inactive" in run("deactivate", "lab").stdout
    assert "inactive" not in run("activate", "lab").stdout


def test_a_storage_is_forgotten(fake):
    """By force only if that is said."""
    results = [run("delete", "lab"), run("delete", "lab", "--force", "--etag", "3")]

    assert [result.exit_code for result in results] == [0, 0]
    assert fake.asked == [
        ("delete", "lab", {"etag": "", "force": False}),
        ("delete", "lab", {"etag": "3", "force": True}),
    ]
