"""All URLs of the API."""

from django.contrib import admin
from django.urls import include, path

from api.jobs.urls import worker_urlpatterns
from api.monitoring import healthz, metrics, readyz
from api.pages import docs, home, schema

urlpatterns = [
    path("", home),
    path("api/v1/", include("api.accounts.urls")),
    path("api/v1/", include("api.lineage.catalog_urls")),
    path("api/v1/", include("api.jobs.urls")),
    path("internal/v1/", include(worker_urlpatterns)),
    path("api/docs", docs),
    path("api/schema", schema),
    path("admin/", admin.site.urls),
    path("healthz", healthz),
    path("readyz", readyz),
    path("metrics", metrics),
]

handler400 = "api.errors.bad_request"
handler403 = "api.errors.permission_denied"
handler404 = "api.errors.not_found"
handler500 = "api.errors.server_error"
