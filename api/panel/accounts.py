"""Users, projects and tokens in the panel. Users and groups can be edited; each edit leaves an audit row."""

from typing import Any

from django.contrib import admin
from django.contrib.admin import display
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.utils import timezone
from django.utils.decorators import method_decorator
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from api.accounts.models import Invitation, Membership, Project, Token
from api.accounts.tokens import token_revoke
from api.accounts.users import invitation_answer, logins_end, member_remove, member_set
from api.audit.clock import now
from api.audit.models import audit_add
from api.errors import Problem
from api.panel.actions import PanelAction, actor_of, panel_actions
from api.panel.readonly import ModelAdmin, ReadOnly, ReadOnlyRows, label, link_to


def revoke(token: Token, by: str) -> str:
    token_revoke(token=token, by=by)
    return f"{token} is revoked."


def may_leave(member: Membership) -> bool:
    """Whether they are not the last admin."""
    others = Membership.objects.filter(project=member.project_id, role=Membership.Role.ADMIN).exclude(pk=member.pk)
    return member.role != Membership.Role.ADMIN or others.exists()


def may_get(member: Membership, role: str) -> bool:
    return member.role != role and may_leave(member)


def leave(member: Membership, by: str) -> str:
    member_remove(project=member.project, username=member.user.get_username(), by=by, by_superuser=True)
    return f"{member.user} is no longer in {member.project}."


def role_action(role: str) -> PanelAction:
    """The button that sets this role."""

    def role_set(member: Membership, by: str) -> str:
        username = member.user.get_username()
        updated, _ = member_set(project=member.project, username=username, role=role, by=by, by_superuser=True)
        return f"{updated}."

    description = f"These members get the rights of a {role}, from their next request on."
    return PanelAction(
        role,
        f"Make {role}",
        description,
        role_set,
        "badge",
        destructive=False,
        fits=lambda member: may_get(member, role),
    )


LEAVE = PanelAction(
    "leave",
    "Remove",
    "These people leave the project, and their tokens for it become invalid.",
    leave,
    "logout",
    fits=may_leave,
)
REVOKE = PanelAction(
    "revoke",
    "Revoke",
    "Requests with these tokens are refused from now on.",
    revoke,
    "key_off",
    fits=lambda token: token.revoked_at is None,
)


def invitation_action(name: str, title: str, description: str, icon: str, *, accept: bool) -> PanelAction:
    """A button that works only for the invited person."""

    def respond(invitation: Invitation, by: str) -> str:
        if not is_invited(invitation, by):
            message = f"Only {invitation.user} may answer this invitation."
            raise Problem("forbidden", message, status=403)
        invitation_answer(user=invitation.user, project=invitation.project.name, accept=accept, by=by)
        return f"{invitation}: {'accepted' if accept else 'declined'}."

    return PanelAction(name, title, description, respond, icon, destructive=not accept, fits_actor=is_invited)


def is_invited(invitation: Invitation, actor: str) -> bool:
    return actor == f"user:{invitation.user.get_username()}"


ACCEPT = invitation_action("accept", "Accept", "You become a member of these projects.", "check", accept=True)
DECLINE = invitation_action("decline", "Decline", "These invitations are deleted.", "close", accept=False)


class Audited(ModelAdmin):
    """An edit in the panel leaves an audit row, in the transaction that Django's admin saves in."""

    def log_addition(self, request: Any, obj: Any, message: Any) -> Any:
        self._audit(request, obj, "added", message)
        return super().log_addition(request, obj, message)

    def log_change(self, request: Any, obj: Any, message: Any) -> Any:
        self._audit(request, obj, "changed", message)
        if isinstance(obj, User) and "password" in str(message).lower():
            logins_end(user=obj, by=actor_of(request))
        return super().log_change(request, obj, message)

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:  # noqa: ARG002 Django's hook
        """False: a user who left is made inactive, so that their name stays with what they did."""
        return False

    def _audit(self, request: Any, obj: Any, kind: str, message: Any) -> None:
        """`message` names the fields, never their values."""
        model, data = self.opts.model_name, {"message": message}
        audit_add(actor=actor_of(request), kind=f"{model}_{kind}", object=f"{model}:{obj.pk}", at=now(), data=data)


class MembershipRows(ReadOnlyRows):
    model = Membership
    fields = readonly_fields = (link_to("project"), link_to("user"), "role")

    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).select_related("project", "user")


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(Audited, DjangoUserAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    form = UserChangeForm
    add_form = UserCreationForm
    add_fieldsets = DjangoUserAdmin.add_fieldsets  # unfold's empty ones would hide these
    change_password_form = AdminPasswordChangeForm
    inlines = (MembershipRows,)
    list_display = ("username", "email", "is_active", "is_staff", "is_superuser", "last_login", "date_joined")
    ordering = ("username",)

    @method_decorator(transaction.atomic)
    def user_change_password(self, request: Any, id: str, form_url: str = "") -> Any:
        return super().user_change_password(request, id, form_url)

    def get_inlines(self, request: Any, obj: Any) -> Any:  # noqa: ARG002 Django's hook
        return self.inlines if obj else ()


@admin.register(Group)
class GroupAdmin(Audited, DjangoGroupAdmin):
    pass


@admin.register(Project)
class ProjectAdmin(ReadOnly):
    list_display = ("name", "created")
    search_fields = ("name",)
    ordering = ("name",)
    inlines = (MembershipRows,)


@admin.register(Membership)
@panel_actions(*(role_action(role) for role in Membership.Role.values), LEAVE)
class MembershipAdmin(ReadOnly):
    list_display = ("__str__", link_to("project"), link_to("user"), "role")
    list_filter = ("role", "project")
    list_select_related = ("project", "user")
    search_fields = ("user__username", "project__name")


@admin.register(Invitation)
@panel_actions(ACCEPT, DECLINE)
class InvitationAdmin(ReadOnly):
    list_display = (link_to("project"), link_to("user"), "role", "invited_by", "created")
    list_select_related = ("project", "user")
    search_fields = ("user__username", "project__name")


@admin.register(Token)
@panel_actions(REVOKE)
class TokenAdmin(ReadOnly):
    list_display = ("name", "kind", "token_state", link_to("user"), link_to("project"), "expires_at", "last_used")
    list_filter = ("kind", "project")
    list_select_related = ("user", "project")
    search_fields = ("name", "user__username")
    ordering = ("-created",)

    @display(description="state")
    def token_state(self, token: Token) -> str:
        if token.revoked_at:
            return label("revoked", "danger")
        expired = token.expires_at is not None and token.expires_at <= timezone.now()
        return label("expired", "warning") if expired else label("live", "success")


@admin.register(LogEntry)
class LogEntryAdmin(ReadOnly):
    list_display = ("action_time", link_to("user"), "__str__", "content_type")
    list_filter = ("action_flag", "content_type")
    list_select_related = ("user", "content_type")
    search_fields = ("object_repr", "user__username")
