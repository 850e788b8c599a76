//! A scripted executor for the agent's own tests.
