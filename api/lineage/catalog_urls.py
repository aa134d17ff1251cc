"""URLs of the catalog, with the OpenAPI descriptions of the views that serve two kinds."""

from typing import Any

from django.urls import path
from drf_spectacular.utils import extend_schema, extend_schema_view
from pydantic import BaseModel

from api.catalog.adaptors.views import AdaptorsView
from api.catalog.templates import views as template_views
from api.catalog.versions.schemas import (
    DatasetDetailShape,
    DatasetShape,
    JoinedShape,
    ModelDetailShape,
    ModelShape,
    NameRequest,
    UploadRequest,
    UploadShape,
    VersionRequest,
)
from api.catalog.versions.views import (
    SEARCH,
    DatasetCaptionsView,
    DatasetPreviewView,
    RecordsView,
    UploadCompleteView,
    UploadsView,
    VersionsView,
)
from api.lineage import views as lineage_views
from api.lineage.uses import UsedByShape
from api.methods.views import MethodsView, MethodView
from api.openapi import page_of
from api.paging import PAGE
from api.upload_links import Parts


def kind_urls(kind: str, summary: type[BaseModel], detail: type[BaseModel]) -> list[Any]:
    """The URLs of datasets or models."""
    listing = extend_schema(operation_id=f"{kind}_list", parameters=[SEARCH, *PAGE], responses=page_of(summary))
    create = extend_schema(operation_id=f"{kind}_create", request=NameRequest, responses={201: summary})
    show = extend_schema(operation_id=f"{kind}_show", responses=detail)
    delete = extend_schema(operation_id=f"{kind}_delete", responses={204: None})
    announce = extend_schema(operation_id=f"{kind}_upload", request=UploadRequest, responses=UploadShape)
    join = extend_schema(operation_id=f"{kind}_upload_complete", request=Parts, responses=JoinedShape)
    check = extend_schema(
        operation_id=f"{kind}_version", request=VersionRequest, responses=dict.fromkeys((200, 201, 202), detail)
    )
    uses = extend_schema(operation_id=f"{kind}_used_by", responses=UsedByShape)
    return [
        path(kind, view_of_kind(RecordsView, kind, get=listing, post=create)),
        path(f"{kind}/<str:ref>", view_of_kind(lineage_views.RecordView, kind, get=show, delete=delete)),
        path(f"{kind}/<str:ref>/used-by", view_of_kind(lineage_views.UsedByView, kind, get=uses)),
        path(f"{kind}/<str:name>/uploads", view_of_kind(UploadsView, kind, post=announce)),
        path(f"{kind}/<str:name>/uploads/<uuid:upload_id>/complete", view_of_kind(UploadCompleteView, kind, post=join)),
        path(f"{kind}/<str:name>/versions", view_of_kind(VersionsView, kind, post=check)),
    ]


def view_of_kind(view: type[Any], kind: str, **operations: Any) -> Any:
    """The view as a class for this kind, since a description belongs to a class."""
    kind_view: Any = type(f"{kind.title()}{view.__name__}", (view,), {"kind": kind})
    return extend_schema_view(**operations)(kind_view).as_view()


urlpatterns = [
    *kind_urls("datasets", DatasetShape, DatasetDetailShape),
    path("datasets/<str:ref>/preview", DatasetPreviewView.as_view()),
    path("datasets/<str:ref>/captions", DatasetCaptionsView.as_view()),
    path("datasets/<str:name>/samples", lineage_views.DatasetSamplesView.as_view()),
    *kind_urls("models", ModelShape, ModelDetailShape),
    path("templates", template_views.TemplatesView.as_view()),
    path("templates/validate", template_views.TemplateVerdictView.as_view()),
    path("templates/import", template_views.TemplateImportView.as_view()),
    path("templates/<str:name>", template_views.TemplateView.as_view()),
    path("templates/<str:name>/versions", template_views.TemplateVersionsView.as_view()),
    path("templates/<str:name>/restore", template_views.TemplateRestoreView.as_view()),
    path("templates/<str:ref>/clone", template_views.TemplateCloneView.as_view()),
    path("templates/<str:ref>/validate", template_views.TemplateVerdictOfView.as_view()),
    path("templates/<str:ref>/export", template_views.TemplateExportView.as_view()),
    path("adaptors", AdaptorsView.as_view()),
    path("adaptors/<str:ref>", lineage_views.AdaptorView.as_view()),
    path("adaptors/<str:ref>/zip", lineage_views.AdaptorZipView.as_view()),
    path("adaptors/<str:ref>/lineage", lineage_views.AdaptorLineageView.as_view()),
    path("adaptors/<str:ref>/used-by", lineage_views.AdaptorUsedByView.as_view()),
    path("methods", MethodsView.as_view()),
    path("methods/<str:method>", MethodView.as_view()),
]
