from django.urls import path

from api.jobs.agent import views as agent_views
from api.jobs.streams.views import JobStreamTicketView, job_stream
from api.jobs.views import jobs as views
from api.jobs.views import projects as project_views
from api.jobs.views import results as result_views

urlpatterns = [
    path("jobs", views.JobsView.as_view()),
    path("jobs/<str:ref>", views.JobView.as_view()),
    path("jobs/<str:ref>/cancel", views.JobCancelView.as_view()),
    path("jobs/<str:ref>/pause", views.JobPauseView.as_view()),
    path("jobs/<str:ref>/resume", views.JobResumeView.as_view()),
    path("jobs/<str:ref>/control", views.JobControlView.as_view()),
    path("jobs/<str:ref>/rerun", views.JobRerunView.as_view()),
    path("jobs/<str:ref>/metrics", result_views.JobMetricsView.as_view()),
    path("jobs/<str:ref>/events", result_views.JobEventsView.as_view()),
    path("jobs/<str:ref>/log", result_views.JobLogView.as_view()),
    path("jobs/<str:ref>/stream", job_stream),
    path("jobs/<str:ref>/stream-ticket", JobStreamTicketView.as_view()),
    path("jobs/<str:ref>/samples", result_views.JobSamplesView.as_view()),
    path("jobs/<str:ref>/manifest", result_views.JobManifestView.as_view()),
    path("jobs/<str:ref>/spec", result_views.JobSpecView.as_view()),
    path("jobs/<str:ref>/artifacts", result_views.JobArtifactsView.as_view()),
    path("templates/<str:ref>/preview", views.TemplatePreviewView.as_view()),
    path("samplings", project_views.SamplingsView.as_view()),
    path("usage", project_views.UsageView.as_view()),
    path("workers", project_views.WorkersView.as_view()),
    path("workers/<uuid:worker_id>/release", project_views.WorkerReleaseView.as_view()),
    path("workers/<uuid:worker_id>/drain", project_views.WorkerDrainView.as_view()),
]
"""For people, below api/v1/."""
worker_urlpatterns = [
    path("workers/hello", agent_views.HelloView.as_view()),
    path("workers/heartbeat", agent_views.HeartbeatView.as_view()),
    path("workers/goodbye", agent_views.GoodbyeView.as_view()),
    path("claims", agent_views.ClaimsView.as_view()),
    path("attempts/<uuid:attempt_id>/heartbeat", agent_views.AttemptHeartbeatView.as_view()),
    path("attempts/<uuid:attempt_id>/events", agent_views.AttemptEventsView.as_view()),
    path("attempts/<uuid:attempt_id>/log", agent_views.AttemptLogView.as_view()),
    path("attempts/<uuid:attempt_id>/uploads", agent_views.AttemptUploadsView.as_view()),
    path("attempts/<uuid:attempt_id>/uploads/complete", agent_views.AttemptUploadCompleteView.as_view()),
    path("attempts/<uuid:attempt_id>/artifacts", agent_views.AttemptArtifactsView.as_view()),
    path("attempts/<uuid:attempt_id>/finish", agent_views.AttemptFinishView.as_view()),
    path("attempts/<uuid:attempt_id>/links", agent_views.AttemptLinksView.as_view()),
]
"""For workers and their attempts, below internal/v1/."""
