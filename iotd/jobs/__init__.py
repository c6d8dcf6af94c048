"""Jobs: what the operator of a fleet has this device do, one at a time, each to a final state that the cloud learns.

`part` runs on the main thread. `exchange` is the conversation with the service and the life of the one execution that
is at hand; `documents` makes steps of a document, or says why it is rejected; `details` fits what is told of it into
the service's rules. What has to outlive this run stands in `record` form in the state directory before it is begun.
A handler runs as iotd's own user on a thread of its own (`work`); what needs root is asked of the helper, by a request
in /run/iotd/jobs, and its result is read in a file of root's.
"""
