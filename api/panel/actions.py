"""Buttons of the panel: each calls the service behind REST as the admin who pressed it, and shows the result."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ObjectDoesNotExist
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import action
from unfold.enums import ActionVariant

from api.errors import Problem

MAX_AT_ONCE = 200
Admin = TypeVar("Admin", bound=type)


@dataclass(frozen=True)
class PanelAction:
    """One button, on the list for many records and on the page of one."""

    name: str
    title: str
    description: str
    """What will happen, shown before the confirmation."""
    do: Callable[[Any, str], str]
    """Takes the record and the actor, returns what happened in a sentence. Raises Problem."""
    icon: str
    destructive: bool = True
    """The list asks for confirmation. The page always asks: a GET changes nothing."""
    fits: Callable[[Any], bool] = lambda record: True  # noqa: ARG005 every record
    """Whether the service would accept it now; otherwise the page of the record shows no button."""
    fits_actor: Callable[[Any, str], bool] = lambda record, by: True  # noqa: ARG005 every actor
    """Whether it would accept it from this actor."""


def panel_actions(*actions: PanelAction) -> Callable[[Admin], Admin]:
    """Class decorator: adds these buttons to a ReadOnly admin."""

    def decorate(cls: Admin) -> Admin:
        for panel_action in actions:
            setattr(cls, f"{panel_action.name}_chosen", _on_list(panel_action))
            setattr(cls, f"{panel_action.name}_this", _on_page(panel_action))
            setattr(cls, f"has_{panel_action.name}_fit_permission", _fitting(panel_action))
        cls.actions = [f"{panel_action.name}_chosen" for panel_action in actions]  # type: ignore[attr-defined]  # of ModelAdmin
        cls.actions_detail = [f"{panel_action.name}_this" for panel_action in actions]  # type: ignore[attr-defined]
        return cls

    return decorate


def actor_of(request: HttpRequest) -> str:
    return f"user:{request.user.get_username()}"


def _on_list(panel_action: PanelAction) -> Any:
    def chosen(admin: Any, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        records = list(queryset[: MAX_AT_ONCE + 1])
        if len(records) > MAX_AT_ONCE:
            admin.refuse(request, f"At most {MAX_AT_ONCE} records at once; nothing was done.")
        elif panel_action.destructive and "confirmed" not in request.POST:
            hidden = {"action": f"{panel_action.name}_chosen", "index": request.POST.get("index", "0")}
            back = request.get_full_path()
            return _ask(admin, request, panel_action, records, back, hidden)
        else:
            _do(admin, request, panel_action, records)
        return None

    chosen.__name__ = f"{panel_action.name}_chosen"
    return action(description=panel_action.title, permissions=["act"], icon=panel_action.icon)(chosen)


def _on_page(panel_action: PanelAction) -> Any:
    def this(admin: Any, request: HttpRequest, object_id: str) -> HttpResponse:
        record = admin.get_object(request, object_id)
        if record is None:
            raise Http404
        page = reverse(f"admin:{admin.opts.app_label}_{admin.opts.model_name}_change", args=[record.pk])
        if request.method != "POST":
            return _ask(admin, request, panel_action, [record], page, {})
        _do(admin, request, panel_action, [record])
        return HttpResponseRedirect(page)

    this.__name__ = f"{panel_action.name}_this"
    variant = ActionVariant.DANGER if panel_action.destructive else ActionVariant.DEFAULT
    permissions = ["act", f"{panel_action.name}_fit"]
    decorator = action(
        description=panel_action.title,
        permissions=permissions,
        url_path=panel_action.name,
        icon=panel_action.icon,
        variant=variant,
    )
    return decorator(this)


def _fitting(panel_action: PanelAction) -> Any:
    def fits(admin: Any, request: HttpRequest, object_id: Any = None) -> bool:
        """True for a POST: if the record changed after its page was shown, the service says why it refuses."""
        if object_id is None or request.method == "POST":
            return True
        record = admin.get_object(request, str(object_id))
        return record is not None and panel_action.fits(record) and panel_action.fits_actor(record, actor_of(request))

    return fits


def _ask(
    admin: Any, request: HttpRequest, panel_action: PanelAction, records: list[Any], back: str, hidden: dict[str, str]
) -> TemplateResponse:
    context = {
        **admin.admin_site.each_context(request),
        "title": panel_action.title,
        "opts": admin.opts,
        "panel_action": panel_action,
        "records": records,
        "hidden": hidden,
        "chosen_name": ACTION_CHECKBOX_NAME,
        "back": back,
    }
    return TemplateResponse(request, "panel/confirm.html", context)


def _do(admin: Any, request: HttpRequest, panel_action: PanelAction, records: Iterable[Any]) -> None:
    """Each record by itself; for several records also the number of refusals."""
    num_done = num_refused = 0
    for record in records:
        try:
            message = panel_action.do(record, actor_of(request))
        except Problem as problem:
            num_refused += 1
            admin.refuse(request, f"{panel_action.title} of {record}: {problem.message} {problem.hint}".strip())
        except (ObjectDoesNotExist, Http404):
            num_refused += 1
            admin.refuse(request, f"{panel_action.title} of {record}: it no longer exists.")
        else:
            num_done += 1
            admin.message_user(request, message, level=messages.SUCCESS)
    if num_refused and num_done + num_refused > 1:
        total = num_done + num_refused
        summary = f"{panel_action.title}: done for {num_done} of {total}, refused for {num_refused}."
        admin.message_user(request, summary, level=messages.WARNING)
