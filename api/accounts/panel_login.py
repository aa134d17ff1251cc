"""The panel's login form, which shares the rate limit of `POST auth/login`."""

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from unfold.forms import AuthenticationForm as UnfoldForm

from api.accounts.limits import login_allowed

if TYPE_CHECKING:
    from django.contrib.admin.forms import AdminAuthenticationForm as Form
else:
    Form = UnfoldForm


class LimitedLogin(Form):
    def clean(self) -> dict[str, Any]:
        """Counts the attempt before the password is checked."""
        username = str(self.cleaned_data.get("username", ""))
        if not login_allowed(self.request, lambda: username):
            raise ValidationError("Too many tries for this account or address; wait a minute.")
        return super().clean()
