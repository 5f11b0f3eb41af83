"""A backend that is no peer: it makes, lists and changes meetings over a server's API, and watches them.

What it changes is on every connected device's screen at once, and on the others' after their next sync.
"""

import argparse
import pathlib
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

sys.path.insert(0, str(pathlib.Path(__file__).parent / "generated"))
import api_pb2 as api  # noqa: E402
import api_pb2_grpc as api_grpc  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--api", default="127.0.0.1:4002", metavar="ADDR:PORT")
    parser.add_argument("--token-file", type=pathlib.Path, required=True, metavar="FILE")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="say what the server is")
    commands.add_parser("list", help="list all meetings")
    create = commands.add_parser("create", help="make a meeting")
    create.add_argument("title")
    create.add_argument("--project")
    update = commands.add_parser("update", help="change a meeting")
    update.add_argument("id")
    update.add_argument("--title")
    update.add_argument("--notes")
    update.add_argument("--tag", action="append", default=[])
    say = commands.add_parser("say", help="append sentences to a transcript, in order")
    say.add_argument("id")
    say.add_argument("sentences", nargs="+")
    watch = commands.add_parser("watch", help="say what changes, until interrupted")
    watch.add_argument("--cursor-file", type=pathlib.Path, help="go on from there, and keep it there")
    return parser.parse_args()


def list_meetings(meetings, shown):
    request = api.ListMeetingsRequest(page_size=100)
    while True:
        page = meetings.ListMeetings(request, metadata=shown)
        for meeting in page.meetings:
            print(meeting.id, api.MeetingState.Name(meeting.state), meeting.title)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def create(meetings, shown, args):
    request = api.CreateMeetingRequest(title=args.title)
    if args.project is not None:
        request.project = args.project
    made = meetings.CreateMeeting(request, metadata=shown)
    project = made.resolved_project_id if made.HasField("resolved_project_id") else "no project"
    rule = api.ProjectResolution.Name(made.resolution)
    print(made.meeting.id, "in", project, f"({rule})")


def update(meetings, shown, args):
    # Only what is set is changed.
    request = api.UpdateMeetingRequest(meeting_id=args.id, add_tags=args.tag)
    if args.title is not None:
        request.title = args.title
    if args.notes is not None:
        request.notes = args.notes
    print(meetings.UpdateMeeting(request, metadata=shown).meeting)


def say(meetings, shown, args):
    def messages():
        # Ids of their own make it safe to send everything again after a cut.
        for number, sentence in enumerate(args.sentences):
            segment = api.Segment(id=f"say-{number}", start_ms=1000 * number, text=sentence)
            yield api.AppendSegmentsRequest(meeting_id=args.id, segments=[segment])

    print(meetings.AppendSegments(messages(), metadata=shown))


def watch(meetings, shown, args):
    request = api.WatchEventsRequest()
    kept = args.cursor_file
    if kept is not None and kept.exists():
        request.cursor = kept.read_text().strip()
    for event in meetings.WatchEvents(request, metadata=shown):
        for changed in event.changed.meeting_ids:
            print("changed", changed, flush=True)
        if event.changed.projects:
            print("projects changed", flush=True)
        # After the event is dealt with: what was not is told again.
        if kept is not None:
            kept.write_text(event.cursor)


def main():
    args = arguments()
    token = args.token_file.read_text().strip()
    shown = [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(args.api) as channel:
        meetings = api_grpc.ReconveneStub(channel)
        try:
            if args.command == "info":
                print(meetings.GetServerInfo(api.GetServerInfoRequest(), metadata=shown))
            elif args.command == "list":
                list_meetings(meetings, shown)
            else:
                {"create": create, "update": update, "say": say, "watch": watch}[args.command](
                    meetings, shown, args
                )
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            status = rpc_status.from_call(error)
            for detail in status.details if status else []:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    print(f"  {info.reason}: {info.metadata.get('hint', '')}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
