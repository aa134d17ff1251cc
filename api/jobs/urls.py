from django.urls import path

from api.jobs.streams.ticket import JobStreamTicketView
from api.jobs.streams.views import job_stream
from api.jobs.views import jobs as views
from api.jobs.views import logs as log_views
from api.jobs.views import projects as project_views
from api.jobs.views import results as result_views
from api.jobs.views import workers as worker_views

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
    path("jobs/<str:ref>/log", log_views.JobLogView.as_view()),
    path("jobs/<str:ref>/stream", job_stream),
    path("jobs/<str:ref>/stream-ticket", JobStreamTicketView.as_view()),
    path("jobs/<str:ref>/samples", result_views.JobSamplesView.as_view()),
    path("jobs/<str:ref>/manifest", result_views.JobManifestView.as_view()),
    path("jobs/<str:ref>/spec", result_views.JobSpecView.as_view()),
    path("jobs/<str:ref>/artifacts", result_views.JobArtifactsView.as_view()),
    path("templates/<str:ref>/preview", views.TemplatePreviewView.as_view()),
    path("samplings", project_views.SamplingsView.as_view()),
    path("datasets/<str:name>/samples", project_views.DatasetSamplesView.as_view()),
    path("usage", project_views.UsageView.as_view()),
    path("workers", worker_views.WorkersView.as_view()),
    path("workers/<uuid:worker_id>/release", worker_views.WorkerReleaseView.as_view()),
    path("workers/<uuid:worker_id>/drain", worker_views.WorkerDrainView.as_view()),
]
