"""The names under which frameworks register what answers a request.

Extraction keeps an eye on these names only, so that linking finds the entry points of a large project without
decoding every function in it.
"""

from __future__ import annotations

VERBS = frozenset({"get", "post", "put", "delete", "patch", "head", "options", "trace"})

# Methods of a REST framework's view set, and the verb that a router binds each to.
VIEWSET_VERBS = {
    "list": "GET", "retrieve": "GET", "create": "POST", "update": "PUT", "partial_update": "PATCH", "destroy": "DELETE",
}  # fmt: skip

# Decorators that make a route when their first argument is a path, or bare.
ROUTE_DECORATORS = VERBS | {
    "route", "api_route", "websocket", "websocket_route", "any", "view", "endpoint", "websocket_listener",
}  # fmt: skip

# Decorators of functions that run within every request, or within requests of some kind.
HOOK_DECORATORS = frozenset(
    {
        "before_request", "after_request", "teardown_request", "before_app_request", "after_app_request",
        "teardown_app_request", "teardown_appcontext", "errorhandler", "app_errorhandler", "context_processor",
        "app_context_processor", "template_filter", "template_global", "template_test", "app_template_filter",
        "url_value_preprocessor", "url_defaults", "before_websocket", "after_websocket", "middleware",
        "exception_handler", "user_loader", "request_loader", "token_in_blocklist_loader",
        "user_lookup_loader", "user_identity_loader", "verify_password", "verify_token", "error_handler",
        "on_request", "on_response", "hook", "exception", "catch", "load_user", "expired_token_loader",
    }
)  # fmt: skip

# Decorators that need no argument to tell: the framework calls the function in a request.
VIEW_DECORATORS = frozenset(
    {
        "api_view", "require_POST", "require_GET", "require_http_methods", "require_safe", "csrf_exempt",
        "login_required", "permission_required", "staff_member_required", "never_cache", "receiver",
        "simple_tag", "inclusion_tag", "view_config", "expose", "action", "field", "mutation", "subscription",
        "query", "tool", "controller", "on", "event", "on_event", "get_endpoint", "ensure_csrf_cookie",
        "cache_page", "application", "jsonrpc_method", "asset", "websocket_handler", "sio_on",
    }
)  # fmt: skip

DECORATORS = ROUTE_DECORATORS | HOOK_DECORATORS | VIEW_DECORATORS

# Calls that register, with the position and the keyword of what they register.
CALLS = {
    "add_url_rule": (2, "view_func"),
    "add_resource": (0, "resource"),
    "add_api_route": (1, "endpoint"),
    "add_route": (1, "endpoint"),
    "add_api_websocket_route": (1, "endpoint"),
    "add_websocket_route": (1, "endpoint"),
    "add_get": (1, "handler"),
    "add_post": (1, "handler"),
    "add_put": (1, "handler"),
    "add_patch": (1, "handler"),
    "add_delete": (1, "handler"),
    "add_view": (1, "handler"),
    "add_middleware": (0, "middleware_class"),
    "Middleware": (0, "cls"),
    "path": (1, "view"),
    "re_path": (1, "view"),
    "url": (1, "view"),
    "Route": (1, "endpoint"),
    "Rule": (3, "endpoint"),
    "WebSocketRoute": (1, "endpoint"),
    "register_error_handler": (1, "f"),
    "add_exception_handler": (1, "handler"),
    "before_request": (0, "f"),
    "after_request": (0, "f"),
    "teardown_request": (0, "f"),
    "connect": (0, "receiver"),
    "on_event": (1, "handler"),
    "add_event_handler": (1, "func"),
    "register": (1, "viewset"),
    "web.get": (1, "handler"),
}

REGISTRATIONS = frozenset(CALLS) | {"Depends", "Security", "web.get"}

# Base classes (by last name) whose instances serve one request each.
VIEW_BASES = frozenset(
    {
        "MethodView", "View", "Resource", "MethodResource", "APIView", "HTTPEndpoint", "WebSocketEndpoint",
        "RequestHandler", "WebSocketHandler", "ViewSet", "ModelViewSet", "GenericViewSet", "GenericAPIView",
        "ReadOnlyModelViewSet", "TemplateView", "ListView", "DetailView", "CreateView", "UpdateView",
        "DeleteView", "FormView", "RedirectView", "Controller", "WebsocketConsumer", "AsyncWebsocketConsumer",
        "JsonWebsocketConsumer", "AsyncJsonWebsocketConsumer", "Namespace", "AsyncNamespace",
        "ListAPIView", "RetrieveAPIView", "CreateAPIView", "UpdateAPIView", "DestroyAPIView",
        "ListCreateAPIView", "RetrieveUpdateAPIView", "RetrieveUpdateDestroyAPIView", "BaseHTTPRequestHandler",
        "SimpleHTTPRequestHandler", "HTTPMethodView", "StreamRequestHandler",
    }
)  # fmt: skip
# Base classes whose one instance serves every request of a process.
SHARED_BASES = frozenset(
    {
        "ModelAdmin", "AdminSite", "BaseHTTPMiddleware", "MiddlewareMixin", "ModelView", "BaseView",
        "AdminIndexView", "AbstractMiddleware", "SessionInterface",
    }
)  # fmt: skip
