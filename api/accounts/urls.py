from django.urls import path

from api.accounts import project_views, views

urlpatterns = [
    path("auth/login", views.LoginView.as_view()),
    path("auth/logout", views.LogoutView.as_view()),
    path("me", views.MeView.as_view()),
    path("me/password", views.PasswordView.as_view()),
    path("me/invitations", project_views.InvitationsView.as_view()),
    path("projects", project_views.ProjectsView.as_view()),
    path("projects/<str:name>", project_views.ProjectView.as_view()),
    path("projects/<str:name>/members", project_views.MembersView.as_view()),
    path("projects/<str:name>/members/<str:username>", project_views.MemberView.as_view()),
    path("users", project_views.UsersView.as_view()),
    path("users/<str:username>/disable", project_views.UserDisableView.as_view()),
    path("users/<str:username>/enable", project_views.UserEnableView.as_view()),
    path("users/<str:username>/reset", project_views.UserResetView.as_view()),
    path("tokens", views.TokensView.as_view()),
    path("tokens/workers", views.WorkerTokensView.as_view()),
    path("tokens/<uuid:token_id>", views.TokenView.as_view()),
    path("secrets", project_views.SecretsView.as_view()),
    path("secrets/<str:name>", project_views.SecretView.as_view()),
    path("audit", views.AuditView.as_view()),
]
