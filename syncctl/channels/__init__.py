"""The channels through which alerts reach people: a webhook, and e-mail."""
