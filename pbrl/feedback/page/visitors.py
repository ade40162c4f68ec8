"""Who a request is by: the rater whose link set its cookie, read from there and never from the request's body."""

from typing import Annotated

from fastapi import Depends, HTTPException
from starlette.requests import Request

from pbrl.feedback.page.project import Project

NO_LINK = (
    "Open the link that you were given: it has a token after the question mark, and this browser must keep cookies. "
    "A link that was ended, or is not whole, opens nothing; ask whoever sent it. Answers that wait here are not lost."
)


def cookie_of(project: Project) -> str:
    """The name of the cookie: cookies know no ports, and two projects may be served by one machine."""
    return f"pbrl_rater_{project.id[:8]}"


def project_of(request: Request) -> Project:
    """The project that this server shows."""
    return request.app.state.project


def rater_of(request: Request) -> str:
    """The name of the rater whose link set the cookie. Raises 401 without one."""
    project = project_of(request)
    name = project.access.find(request.cookies.get(cookie_of(project)))
    if name is None:
        raise HTTPException(401, NO_LINK)
    request.state.rater = name
    return name


def owner_of(request: Request) -> str:
    """The name of whoever runs the project. Raises 401, and 403 for raters."""
    name, project = rater_of(request), project_of(request)
    if name != project.me:
        raise HTTPException(403, "This page is for whoever runs the project; open it by the link of that name.")
    return name


TheProject = Annotated[Project, Depends(project_of)]
Rater = Annotated[str, Depends(rater_of)]
Owner = Annotated[str, Depends(owner_of)]
