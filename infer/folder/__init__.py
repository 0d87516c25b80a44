"""A whole folder: request, plan, journal, pipeline, storage local and remote, report, dry run, console.

Public: `folder_run.run_folder`, `dry_run.show_plan`, `request.FolderRequest`. How one photo is read and written is in
`infer.photo`.
"""
