from django.urls import path

from api.accounts.views import LoginView, MeView

urlpatterns = [
    path("auth/login", LoginView.as_view()),
    path("me", MeView.as_view()),
]
