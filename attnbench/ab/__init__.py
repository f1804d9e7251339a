"""Two git revisions of the user's repository: built in worktrees, timed in turns in pairs of processes, compared.

For others: `measure` (pairs of processes to a verdict), `journal` (what `--resume` goes on from), `revision` (one
revision and its worker), `worktree` (git).
"""
