from django.urls import path

from api.accounts.secrets_views import SecretsView, SecretView

urlpatterns = [
    path("secrets", SecretsView.as_view()),
    path("secrets/<str:name>", SecretView.as_view()),
]
