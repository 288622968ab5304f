{{- /* Everything that the operator asks of the API server. It reads no Secret, no Node and no volume, and changes no pod. */}}
{{- define "neuronmodel.rules" -}}
- apiGroups: [neuronmodel.dev]
  resources: [neuronmodels]
  # patch: the finalizer, set only while a deletion would need a clean-up Job.
  verbs: [get, list, watch, patch]
- apiGroups: [neuronmodel.dev]
  resources: [neuronmodels/status]
  verbs: [patch]
- apiGroups: [neuronmodel.dev]
  resources: [neuronmodels/finalizers]
  # Children block their owner's deletion; clusters with OwnerReferencesPermissionEnforcement require this for it.
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [replicasets]
  # Which pods belong to what, and their events.
  verbs: [list, watch]
- apiGroups: [batch]
  resources: [jobs]
  # Created once, never changed.
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [services, persistentvolumeclaims]
  # Claims that users named are only read.
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  # Refusals by Pod Security, quota or a mount exist only as events; it also writes the NeuronModel's own.
  verbs: [get, list, create, patch]
- apiGroups: [""]
  resources: [namespaces]
  # Whether it is terminating: then no clean-up Job can be created.
  verbs: [get]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  # neuronmodel-operator, in each namespace with a NeuronModel: only one operator at a time is active there.
  verbs: [get, create, update]
{{- end }}
