"""Django's middleware, in one thread: left as it is, each one's two hooks are a trip from the event loop to a thread.

Threads of Python wait milliseconds for their turn under load, so that fourteen trips cost more than the request.
"""

from django.contrib.auth import middleware as auth
from django.contrib.messages import middleware as messages
from django.contrib.sessions import middleware as sessions
from django.middleware import clickjacking, common, csrf, security


class SecurityMiddleware(security.SecurityMiddleware):
    async_capable = False


class SessionMiddleware(sessions.SessionMiddleware):
    async_capable = False


class CommonMiddleware(common.CommonMiddleware):
    async_capable = False


class CsrfViewMiddleware(csrf.CsrfViewMiddleware):
    async_capable = False


class AuthenticationMiddleware(auth.AuthenticationMiddleware):
    async_capable = False


class MessageMiddleware(messages.MessageMiddleware):
    async_capable = False


class XFrameOptionsMiddleware(clickjacking.XFrameOptionsMiddleware):
    async_capable = False
