"""What a role answers, described for machines: an OpenAPI 3.1 document.

A role lists its `Operation`s; shapes come from the structs of `wire`, refusals from the tree of
`errors`, and what each route demands from the role's own rule. Nothing is said twice, and nothing
here is asked while a request is served. Where the document is served is for the roles.
"""

from cortex.openapi.document import Access, Description, Page
from cortex.openapi.operation import Asked, Operation, Parameter, Told

__all__ = ["Access", "Asked", "Description", "Operation", "Page", "Parameter", "Told"]
