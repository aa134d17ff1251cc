from django.urls import path

from api.jobs.agent import host_views
from api.jobs.agent import views as agent_views

urlpatterns = [
    path("workers/hello", host_views.HelloView.as_view()),
    path("workers/heartbeat", host_views.HeartbeatView.as_view()),
    path("workers/goodbye", host_views.GoodbyeView.as_view()),
    path("claims", host_views.ClaimsView.as_view()),
    path("attempts/<uuid:attempt_id>/heartbeat", agent_views.AttemptHeartbeatView.as_view()),
    path("attempts/<uuid:attempt_id>/events", agent_views.AttemptEventsView.as_view()),
    path("attempts/<uuid:attempt_id>/log", agent_views.AttemptLogView.as_view()),
    path("attempts/<uuid:attempt_id>/uploads", agent_views.AttemptUploadsView.as_view()),
    path("attempts/<uuid:attempt_id>/uploads/complete", agent_views.AttemptUploadCompleteView.as_view()),
    path("attempts/<uuid:attempt_id>/artifacts", agent_views.AttemptArtifactsView.as_view()),
    path("attempts/<uuid:attempt_id>/finish", agent_views.AttemptFinishView.as_view()),
    path("attempts/<uuid:attempt_id>/links", agent_views.AttemptLinksView.as_view()),
]
