"""What whoever runs a project sees and does: raters' quality, all answers as a file, and the end of a link."""

import tempfile
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from pbrl.feedback import exchange, raters
from pbrl.feedback.page.access import linked
from pbrl.feedback.page.visitors import Owner, TheProject
from pbrl.feedback.store.progress import answers_with_questions

NOTES = 200  # that are shown, the latest ones
PAGE = Path(__file__).parent / "static"
routes = APIRouter()


class Revoked(BaseModel):
    """Whose link is to end."""

    rater: str = Field(min_length=1, max_length=64)


@routes.get("/stats")
def statistics_page(owner: Owner) -> FileResponse:
    """The overview of raters."""
    return FileResponse(PAGE / "stats.html", headers={"Cache-Control": "no-cache"})


@routes.get("/api/stats")
def statistics(project: TheProject, owner: Owner) -> dict[str, Any]:
    """The quality of raters so far."""
    answers = answers_with_questions(project.store, project.dataset)
    noted = [(answer, (answer.value.detail or {}).get("note")) for answer, _ in answers if answer.value]
    notes = [
        {"rater": answer.rater, "question": answer.question, "text": note, "uid": answer.uid}
        for answer, note in noted
        if note
    ]
    return {
        "counts": project.store.counts(dataset=project.dataset),
        "alpha": raters.alphas(answers),
        "raters": raters.describe(answers),
        "accuracy": raters.dawid_skene(answers).accuracy,
        "seconds": [answer.seconds for answer, _ in answers if answer.seconds is not None],
        "notes": notes[-NOTES:],
    }


@routes.get("/export")
def export(project: TheProject, owner: Owner, format: Literal["jsonl", "parquet"] = "jsonl") -> FileResponse:
    """All events of the store as a file, as `python -m pbrl.feedback.exchange … export` writes it."""
    with tempfile.NamedTemporaryFile(suffix=f".{format}", delete=False) as file:
        path = Path(file.name)
    try:
        exchange.export(project.store, path)
    except BaseException:
        path.unlink()
        raise
    headers = {"Cache-Control": "no-store"}
    return FileResponse(path, filename=f"answers.{format}", headers=headers, background=BackgroundTask(path.unlink))


@routes.get("/api/raters")
def list_raters(project: TheProject, owner: Owner) -> dict[str, Any]:
    """Who has a link or has answered, and how many answers stand."""
    links = linked(project.store)
    project.at.of(owner)
    done = {name: record.done for name, record in project.at.records.items()}
    names = sorted(links.keys() | {name for name, count in done.items() if count})
    return {"raters": [{"rater": name, "link": name in links, "answers": done.get(name, 0)} for name in names]}


@routes.post("/api/revoke")
def revoke(wanted: Revoked, project: TheProject, owner: Owner) -> dict[str, bool]:
    """Ends a rater's link; the answers stay."""
    if wanted.rater == project.me:
        raise HTTPException(400, "This is your own link: end it with `python -m pbrl.label revoke=…`.")
    return {"revoked": project.access.revoke(wanted.rater)}
