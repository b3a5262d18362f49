{{/* Names leave room for the longest part: names of Services and values of labels end at 63 characters. */}}
{{- define "esper.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "esper.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full = default $full .Values.fullnameOverride -}}
{{- if gt (len $full) 45 -}}
{{- printf "%s-%s" ($full | trunc 36 | trimSuffix "-") ($full | sha256sum | trunc 8) -}}
{{- else -}}
{{- $full -}}
{{- end -}}
{{- end -}}

{{/* Selector of a part's pods. Called with (dict "root" $ "part" "operator"). */}}
{{- define "esper.selector" -}}
app.kubernetes.io/name: {{ include "esper.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "esper.labels" -}}
{{ include "esper.selector" . }}
app.kubernetes.io/part-of: esper
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
{{- end -}}

{{- define "esper.metadata" -}}
name: {{ include "esper.fullname" .root }}-{{ .part }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "esper.labels" . | nindent 2 }}
{{- end -}}

{{/* Called with (dict "root" $ "image" .Values.images.operator). */}}
{{- define "esper.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What every pod of the release has. Called with (dict "root" $ "part" "operator" "values" .Values.operator). */}}
{{- define "esper.pod" -}}
serviceAccountName: {{ include "esper.fullname" .root }}-{{ .part }}
# Variables that Kubernetes makes of Services would be taken for settings.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "esper.selector" . | nindent 8 }}
{{- end -}}

{{- define "esper.container-security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* Namespaces with TrainingRuns, as JSON; empty when it is all of them. */}}
{{- define "esper.training-namespaces" -}}
{{- if .Values.training.clusterWide -}}
[]
{{- else -}}
{{- default (list .Release.Namespace) .Values.training.namespaces | uniq | sortAlpha | toJson -}}
{{- end -}}
{{- end -}}

{{- define "esper.urza-url" -}}
{{- if .Values.urza.enabled -}}
{{- printf "http://%s-urza.%s.svc:8460" (include "esper.fullname" .) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{/* TCP port of an address. Called with a URL. */}}
{{- define "esper.port-of" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- default (ternary "80" "443" (eq $url.scheme "http")) $port -}}
{{- end -}}
