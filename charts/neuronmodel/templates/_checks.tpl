{{- /*
What would fail later, with a worse message. `lookup` finds nothing without a cluster, and needs no permission that an installer
of these objects can lack: whoever grants a permission has to have it, and whoever installs the CRD may read it.
*/}}
{{- define "neuronmodel.checks" -}}
{{- if not (or (kindIs "slice" .Values.watchNamespaces) (kindIs "invalid" .Values.watchNamespaces)) }}
{{- fail (printf "watchNamespaces is a list, and %s is none: --set 'watchNamespaces={a,b}' (in quotes, as shells take braces apart), or --set 'watchNamespaces={a}' for one" (toJson .Values.watchNamespaces)) }}
{{- end }}
{{- $sources := include "neuronmodel.sources" . | fromYaml }}
{{- range $kind, $_ := include "neuronmodel.networkSources" . | fromYaml }}
{{- range (index $sources $kind).endpoints }}
{{- if and (hasPrefix "http://" .) (not $sources.allowHTTP) }}
{{- fail (printf "sources.%s.endpoints has %s, and without TLS weights and secrets go over the network unprotected: name it with https://, or allow it with --set sources.allowHTTP=true" $kind .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if .Release.IsInstall }}
{{- include "neuronmodel.checkOthers" . }}
{{- end }}
{{- end }}

{{- /* Only before the first installation: afterwards the operator itself reports whose namespaces they are. */}}
{{- define "neuronmodel.checkOthers" -}}
{{- $me := printf "%s/%s" .Release.Namespace .Release.Name }}
{{- $how := "one more release needs --set crds.install=false and namespaces of its own, as --set 'watchNamespaces={a,b}', in which no other operator works" }}
{{- if .Values.crds.install }}
{{- $definition := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "neuronmodels.neuronmodel.dev" }}
{{- $owner := dig "metadata" "annotations" "meta.helm.sh/release-name" "" $definition }}
{{- $namespace := dig "metadata" "annotations" "meta.helm.sh/release-namespace" "" $definition }}
{{- if and $owner (ne (printf "%s/%s" $namespace $owner) $me) }}
{{- /* The CRD outlives its release: only a release that still exists is in the way. */}}
{{- range (lookup "apps/v1" "Deployment" $namespace "").items }}
{{- if include "neuronmodel.isOperatorOf" (list $owner .) }}
{{- fail (printf "the definition of NeuronModels belongs to the release %s in the namespace %s: %s" $owner $namespace $how) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.watchNamespaces }}
{{- $lease := lookup "coordination.k8s.io/v1" "Lease" . "neuronmodel-operator" }}
{{- $other := dig "metadata" "annotations" "neuronmodel.dev/release" "" $lease }}
{{- if and $other (ne $other $me) (dig "spec" "holderIdentity" "" $lease) (include "neuronmodel.isRenewed" $lease) }}
{{- fail (printf "an operator of the release %s works in the namespace %s (Lease %s/neuronmodel-operator): %s" $other . . $how) }}
{{- end }}
{{- end }}
{{- if not (or .Values.watchNamespaces .Values.crds.install) }}
{{- range (lookup "apps/v1" "Deployment" "" "").items }}
{{- $release := dig "metadata" "labels" "app.kubernetes.io/instance" "" . }}
{{- if and (include "neuronmodel.isOperatorOf" (list $release .)) (ne (printf "%s/%s" .metadata.namespace $release) $me) }}
{{- fail (printf "without watchNamespaces this operator would work in all namespaces, and the release %s in the namespace %s has one: %s" $release .metadata.namespace $how) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* [release, Deployment] */}}
{{- define "neuronmodel.isOperatorOf" -}}
{{- $labels := dig "metadata" "labels" dict (last .) }}
{{- if and (eq (get $labels "app.kubernetes.io/name") "neuronmodel-operator") (eq (get $labels "app.kubernetes.io/instance") (first .)) }}true{{ end }}
{{- end }}

{{- /* Recently, as far as two clocks agree: an operator that was killed may have left its Lease. */}}
{{- define "neuronmodel.isRenewed" -}}
{{- $at := toDate "2006-01-02T15:04:05" (dig "spec" "renewTime" "2006-01-02T15:04:05" . | trunc 19) }}
{{- if lt (sub (now | unixEpoch | int64) ($at | unixEpoch | int64)) 60 }}true{{ end }}
{{- end }}
