"""Folder runs: request, plan, journal, pipeline, local and remote storage, report, dry run, console.

Public: `folder_run.run_folder`, `dry_run.show_plan`, `request.FolderRequest`. Reading and writing of one photo is in
`infer.photo`, the model in `infer.backends`.
"""
