"""Plugins that are not trusted: each in a process of its own, which is given inputs, returns outputs, holds no judge.

Others import `session`.
"""
