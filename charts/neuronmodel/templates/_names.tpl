{{- define "neuronmodel.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "neuronmodel.selector" -}}
app.kubernetes.io/name: neuronmodel-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "neuronmodel.labels" -}}
{{ include "neuronmodel.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* The kinds of sources on a network, by their names in spec.model.source: what the operator's variables call them. */}}
{{- define "neuronmodel.networkSources" -}}
huggingFace: HUB
s3: S3
{{- end }}

{{- /* With defaults: `helm upgrade --reuse-values` brings the values of a former chart, which had none of these. */}}
{{- define "neuronmodel.sources" -}}
{{- $defaults := dict "allowHTTP" false "proxy" (dict "https" "" "http" "" "noProxy" "") }}
{{- range $kind, $_ := include "neuronmodel.networkSources" . | fromYaml }}
{{- $_ := set $defaults $kind (dict "endpoints" list "revisionCheckSeconds" 3600) }}
{{- end }}
{{- mergeOverwrite $defaults (deepCopy (.Values.sources | default dict)) | toYaml }}
{{- end }}

{{- define "neuronmodel.monitoring" -}}
{{- $rule := dict "enabled" false "labels" dict "runbookURL" "docs/runbooks" }}
{{- $dashboard := dict "enabled" false "labels" (dict "grafana_dashboard" "1") }}
{{- $monitor := dict "enabled" false "interval" "30s" "labels" dict }}
{{- $defaults := dict "podMonitor" $monitor "prometheusRule" $rule "dashboard" $dashboard }}
{{- mergeOverwrite $defaults (deepCopy (.Values.metrics | default dict)) | toYaml }}
{{- end }}
