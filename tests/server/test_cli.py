import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from spoolway import errors
from spoolway_server.cli import app, connection
from spoolway_server.cli.exits import ExitCode, code_of
from tests.server.fake_client import NAME, FakeClient, failed, snapshot

OTHER = "backends/lamp/jobs/20261124120001abcdef0123"

Run = Callable[..., Result]


@pytest.fixture
def client() -> FakeClient:
    return FakeClient([snapshot()])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, client: FakeClient) -> Run:
    """Run a command line against the fake client."""
    monkeypatch.setattr(connection, "open_client", lambda asked: client.open(asked))

    def invoke(*arguments: object, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return invoke


def play(client: FakeClient, *lives: list[object]) -> None:
    client.lives = {life[0].name: life for life in lives}


def test_submit_prints_the_jobs_name(run, client, tmp_path):
    """A submit prints the name alone, so that a script can take it, and sends the file as it is."""
    file = tmp_path / "job.json"
    file.write_bytes(b'{"a":  1}')

    result = run("submit", file, "--backend", "lamp", "-l", "who=ada", "-l", "what=a=b", "--priority", "-3")

    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{NAME}\n", "")
    assert client.submitted == [
        {
            "backend": "lamp",
            "content": b'{"a":  1}',
            "labels": {"who": "ada", "what": "a=b"},
            "priority": -3,
            "max_run_time": None,
            "request_id": None,
        }
    ]


def test_submit_reads_stdin_and_takes_the_backend_from_the_environment(run, client, monkeypatch):
    """A dash is stdin, and SPOOLWAY_BACKEND stands for --backend."""
    monkeypatch.setenv("SPOOLWAY_BACKEND", "lamp")

    result = run("submit", "-", "--request-id", "r1", stdin=b"{}")

    assert result.exit_code == 0
    assert client.submitted[0]["content"] == b"{}"
    assert client.submitted[0]["backend"] == "lamp"
    assert client.submitted[0]["request_id"] == "r1"


def test_submit_as_json_prints_the_job(run):
    """With --json a submit prints the job as one document."""
    result = run("submit", "-", "-b", "lamp", "--json", stdin=b"{}")

    document = json.loads(result.stdout)
    assert (document["name"], document["state"]) == (NAME, "QUEUED")
    assert document["create_time"] == "2026-11-24T12:00:00Z"


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (snapshot("DONE", revision=3), 0, f"{NAME} ended DONE\n"),
        (failed(revision=3), 1, f"{NAME} ended ERROR: the lamp is broken\n"),
        (snapshot("CANCELLED", revision=3), 1, f"{NAME} ended CANCELLED\n"),
        (snapshot("EXPIRED", revision=3), 1, f"{NAME} ended EXPIRED\n"),
    ],
)
def test_submit_and_wait_tells_how_it_ended(run, client, end, code, words):
    """With --wait the exit code says whether the job ended well, and stderr how."""
    play(client, [snapshot(), snapshot("RUNNING", revision=2), end])

    result = run("submit", "-", "-b", "lamp", "--wait", stdin=b"{}")

    assert (result.exit_code, result.stdout, result.stderr) == (code, f"{NAME}\n", words)


def test_submit_and_wait_as_json_is_one_document(run, client):
    """With --wait and --json there is one document: the job as it ended."""
    play(client, [snapshot(), snapshot("DONE", revision=2)])

    result = run("submit", "-", "-b", "lamp", "--wait", "--json", stdin=b"{}")

    assert json.loads(result.stdout)["state"] == "DONE"


def test_waiting_too_long_has_its_own_exit_code(run, client):
    """A wait that runs out of time says where the job is and that it goes on."""
    client.hangs = True

    result = run("submit", "-", "-b", "lamp", "--wait", "--timeout", "0.05", stdin=b"{}")

    assert result.exit_code == ExitCode.TIMED_OUT
    assert f"{NAME} is still QUEUED after 0.05 s" in result.stderr
    assert "It goes on all the same" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "no-such-file", "-b", "lamp"],
        ["submit", "-"],
        ["submit", "-", "-b", "lamp", "--label", "novalue"],
        ["submit", "-", "-b", "lamp", "--priority", "101"],
        ["jobs", "--state", "LOST"],
        ["watch"],
        ["frobnicate"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(run, arguments, monkeypatch):
    """Whatever is wrong with the command line itself ends with exit code 2 and asks no server."""
    monkeypatch.delenv("SPOOLWAY_BACKEND", raising=False)

    result = run(*arguments, stdin=b"{}")

    assert result.exit_code == ExitCode.USAGE
    assert result.stdout == ""


def test_status_is_a_table_without_what_is_empty(run, client):
    """People see names and values, one a line."""
    play(
        client,
        [
            snapshot(
                "RUNNING", stage="exposing [bold]", fraction=0.4, labels={"who": "ada"}, queue_position=None
            )
        ],
    )

    result = run("status", NAME.rpartition("/")[2])

    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert result.exit_code == 0
    assert lines["job"] == NAME
    assert lines["state"] == "RUNNING"
    assert lines["progress"] == "40% exposing [bold]"
    assert lines["labels"] == "who=ada"
    assert "error" not in lines
    assert "reason" not in lines


@pytest.mark.parametrize(("position", "words"), [(0, "next"), (7, "behind 7"), (1001, "behind over 1000")])
def test_status_tells_the_place_in_the_queue(run, client, position, words):
    """A queued job's place is told in words."""
    play(client, [snapshot(queue_position=position)])

    result = run("status", NAME)

    assert f"queue      {words}\n" in result.stdout


def test_status_of_a_failed_job_is_no_failure_of_the_command(run, client):
    """Asking about a job that ended badly goes well and shows the error."""
    play(client, [failed()])

    result = run("status", NAME)

    assert result.exit_code == 0
    assert "the lamp is broken" in result.stdout


def test_status_as_json_is_one_document(run, client):
    """Programs see everything that is known about a job."""
    play(client, [failed()])

    document = json.loads(run("status", NAME, "--json").stdout)

    assert document["error"] == {
        "code": 13,
        "reason": "FAILED",
        "message": "the lamp is broken",
        "metadata": {},
    }
    assert document["queue_position"] is None


def test_an_unknown_job_is_not_found(run):
    """A job that is not there ends with exit code 3 and one line."""
    result = run("status", "nowhere")

    assert result.exit_code == ExitCode.NOT_FOUND
    assert (result.stdout, result.stderr) == ("", "spoolway: there is no job nowhere [JOB_NOT_FOUND]\n")


def test_watch_prints_a_line_for_each_change_of_state(run, client):
    """Each state of each job is a line, until all have ended; progress within a state is not."""
    play(
        client,
        [
            snapshot(),
            snapshot("RUNNING", revision=2),
            snapshot("RUNNING", revision=3, fraction=0.5),
            snapshot("DONE", revision=4),
        ],
        [snapshot("DONE", name=OTHER)],
    )

    result = run("watch", NAME, OTHER)

    assert result.exit_code == 0
    assert sorted(result.stdout.splitlines()) == sorted(
        [f"{NAME}  QUEUED", f"{NAME}  RUNNING", f"{NAME}  DONE", f"{OTHER}  DONE"]
    )
    assert result.stderr == ""


def test_watch_ends_with_1_if_a_job_ended_badly(run, client):
    """One bad end among several makes the exit code 1, and is explained on stderr."""
    play(client, [snapshot("DONE")], [failed(name=OTHER)])

    result = run("watch", NAME, OTHER)

    assert result.exit_code == ExitCode.ENDED_BADLY
    assert result.stderr == f"{OTHER} ended ERROR: the lamp is broken\n"


def test_watch_as_json_is_a_line_for_each_change(run, client):
    """Programs get every change, progress included, as one JSON object a line."""
    play(client, [snapshot(), snapshot("RUNNING", revision=2, fraction=0.5), snapshot("DONE", revision=3)])

    result = run("watch", NAME, "--json")

    changes = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(c["state"], c["fraction"]) for c in changes] == [("QUEUED", 0), ("RUNNING", 0.5), ("DONE", 0)]


def test_result_is_the_document_as_it_was_sent(run, client):
    """Without a terminal a result is printed byte for byte."""
    play(client, [snapshot("DONE")])

    result = run("result", NAME)

    assert (result.exit_code, result.stdout) == (0, '{"light": 1.0}\n')


def test_result_goes_to_a_file(run, client, tmp_path):
    """With --output the bytes go to a file, and stdout stays empty."""
    play(client, [snapshot("DONE")])

    result = run("result", NAME, "--output", tmp_path / "r.json")

    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / "r.json").read_bytes() == client.result
    assert "14 bytes written" in result.stderr


def test_result_that_cannot_be_written_is_one_line(run, client, tmp_path):
    """A file that can't be written is a usage error without a traceback."""
    play(client, [snapshot("DONE")])

    result = run("result", NAME, "--output", tmp_path / "no" / "r.json")

    assert result.exit_code == ExitCode.USAGE
    assert "No such file or directory" in result.stderr


def test_result_waits_only_when_told_to(run, client):
    """A result that is not there yet is refused with the way out; --wait is it."""
    play(client, [snapshot("RUNNING"), snapshot("DONE", revision=2)])

    early = run("result", NAME)
    late = run("result", NAME, "--wait")

    assert early.exit_code == ExitCode.REFUSED
    assert "--wait" in early.stderr
    assert (late.exit_code, late.stdout) == (0, '{"light": 1.0}\n')


def test_result_of_a_failed_job_is_its_error(run, client):
    """A job that ended badly has no result: exit code 1 and the reason."""
    play(client, [failed()])

    result = run("result", NAME)

    assert (result.exit_code, result.stdout) == (ExitCode.ENDED_BADLY, "")
    assert "the lamp is broken" in result.stderr


def test_cancel_tells_the_state(run):
    """A cancel prints the job and its state, or the job as JSON."""
    assert run("cancel", NAME).stdout == f"{NAME}  CANCELLED\n"
    assert json.loads(run("cancel", NAME, "--json").stdout)["state"] == "CANCELLED"


def test_retry_tells_the_state(run):
    """A retry prints the job and its state, or the job as JSON."""
    assert run("job", "retry", NAME).stdout == f"{NAME}  QUEUED\n"
    assert json.loads(run("job", "retry", NAME, "--json").stdout)["state"] == "QUEUED"


def test_delete_takes_several_jobs(run, client):
    """Each job named is deleted; the first that can't be ends the command, and those before it are told."""
    play(client, [snapshot("DONE")], [snapshot("DONE", name=OTHER)])

    result = run("job", "delete", NAME, "none", OTHER)

    assert (result.exit_code, result.stdout) == (ExitCode.NOT_FOUND, "")
    assert f"{NAME} is deleted" in result.stderr
    assert json.loads(run("job", "delete", OTHER, "--json").stdout) == {"deleted": [OTHER]}


def test_explain_is_a_table_of_reasons(run):
    """Each reason is a row with its advice, or an entry of the document."""
    table = run("job", "explain", NAME).stdout
    document = json.loads(run("job", "explain", NAME, "--json").stdout)

    assert table.splitlines()[1].split() == ["BEHIND_OTHERS", "2", "jobs", "come", "first", "wait"]
    assert document["job"]["name"] == NAME
    assert document["explanations"][0]["jobs_before"] == 2
    assert document["late_results"] == [{"attempt": 1, "spooler": "lamp-1", "size_bytes": 13}]


def test_a_late_result_is_told_of_and_shown(run):
    """explain says how to see a result that came too late, and that command prints it."""
    told = run("job", "explain", NAME).stderr
    shown = run("result", NAME, "--attempt", "1")

    assert f"spoolway result {NAME} --attempt 1" in told
    assert (shown.exit_code, shown.stdout) == (0, '{"late": 1}\n')


def test_jobs_is_a_table_of_the_jobs_asked_for(run, client):
    """The filters reach the server, and each job is a row."""
    play(client, [snapshot("RUNNING", fraction=0.25, labels={"who": "ada"})], [snapshot("DONE", name=OTHER)])

    result = run("jobs", "-b", "lamp", "-s", "running", "--state", "DONE", "-l", "who=ada", "-n", "5")

    header, first, second = result.stdout.splitlines()
    assert result.exit_code == 0
    assert header.split() == ["JOB", "STATE", "PROGRESS", "SUBMITTED", "LABELS"]
    assert first.split()[:3] == [NAME, "RUNNING", "25%"]
    assert first.endswith("who=ada")
    assert second.split()[:2] == [OTHER, "DONE"]
    assert client.asked == {
        "backend": "lamp",
        "states": ("RUNNING", "DONE"),
        "labels": {"who": "ada"},
        "oldest_first": False,
        "limit": 5,
    }


def test_no_jobs_is_a_message_and_an_empty_list(run, client):
    """Where there is no job people are told so, and programs get an empty list."""
    client.lives = {}

    people, programs = run("jobs"), run("jobs", "--json")

    assert (people.stdout, people.stderr) == ("", "No jobs.\n")
    assert json.loads(programs.stdout) == {"jobs": []}


def test_backends_tells_which_take_jobs(run):
    """Each backend is a row that says whether it takes jobs and, if not, why."""
    lines = run("backends").stdout.splitlines()

    assert lines[1].split() == ["lamp", "yes", "4", "1.2.3", "main", "ok", "A", "lamp"]
    assert "no spooler is connected" in lines[2]


def test_backends_as_json_have_their_configs(run):
    """Programs get config, policy and status of each backend."""
    document = json.loads(run("backends", "--json").stdout)

    assert document["backends"][0]["config"]["version"] == "1.2.3"
    assert document["backends"][1]["status"]["operational"] is False


def test_the_connections_options_reach_the_client(run, client):
    """Address, user, token, CA and profile are handed to the client, and the token is never shown."""
    run("status", NAME, "--address", "a:1", "--user", "u", "--token", "t0ken", "--ca", "c", "--profile", "p")

    asked = client.connection
    assert (asked.address, asked.user, asked.token, asked.ca, asked.profile) == (
        "a:1",
        "u",
        "t0ken",
        "c",
        "p",
    )
    assert "t0ken" not in repr(asked)


ERRORS = [
    error
    for name in errors.__all__
    if isinstance(error := getattr(errors, name), type) and issubclass(error, errors.SpoolwayError)
]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_of_the_client_is_a_line_and_an_exit_code(run, client, error):
    """No error of the client shows a traceback, and each has an exit code other than 0."""
    client.error = error("the lamp is off", "LAMP_OFF")

    result = run("status", NAME)

    assert result.exit_code == code_of(error) != ExitCode.OK
    assert (result.stdout, result.stderr) == ("", "spoolway: the lamp is off [LAMP_OFF]\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SettingsError, 2),
        (errors.NotFoundError, 3),
        (errors.InvalidArgumentError, 4),
        (errors.RequestIdReusedError, 4),
        (errors.ContentTooLargeError, 4),
        (errors.StorageInactiveError, 4),
        (errors.QueueFullError, 5),
        (errors.UnavailableError, 5),
        (errors.PermissionDeniedError, 6),
        (errors.UnauthenticatedError, 6),
        (errors.DeadlineExceededError, 7),
        (errors.InternalError, 8),
        (errors.JobFailedError, 1),
    ],
)
def test_exit_codes_stay_what_they_are(error, code):
    """Scripts rely on these numbers."""
    assert code_of(error) == code


def test_the_fields_at_fault_are_named(run, client):
    """Where the server names fields that the message does not, they are lines of their own."""
    wrong = errors.FieldViolation("content", "experiment_0 has no shots")
    client.error = errors.InvalidArgumentError("the job is not valid", "CONTENT_INVALID", violations=(wrong,))

    result = run("submit", "-", "-b", "lamp", stdin=b"{}")

    assert result.exit_code == ExitCode.REFUSED
    assert result.stderr.splitlines() == [
        "spoolway: the job is not valid [CONTENT_INVALID]",
        "  content: experiment_0 has no shots",
    ]


def test_ctrl_c_is_no_traceback(run, client, monkeypatch):
    """Ctrl-C ends a command with 130 and says that the job goes on."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "may_fail", interrupted)

    result = run("status", NAME)

    assert result.exit_code == ExitCode.INTERRUPTED
    assert "goes on" in result.stderr


def test_the_version_is_shown():
    """--version prints the installed version."""
    result = CliRunner().invoke(app, ["--version"])

    assert (result.exit_code, result.stdout) == (0, "spoolway 0.1.0\n")


def test_help_needs_no_grpc():
    """Help is quick: it imports neither gRPC nor the storages' drivers."""
    import subprocess
    import sys

    code = (
        "import sys; from typer.testing import CliRunner; from spoolway_server.cli import app; "
        "assert CliRunner().invoke(app, ['submit', '--help']).exit_code == 0; "
        "sys.exit('grpc' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
