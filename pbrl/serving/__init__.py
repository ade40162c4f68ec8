"""Policies on another machine: a client for policy servers as openpi's, and a server of that kind for pbrl's own."""
