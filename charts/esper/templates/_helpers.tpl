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

{{/* Namespaces that get what training pods need, as JSON. */}}
{{- define "esper.training-namespaces" -}}
{{- default (list .Release.Namespace) .Values.training.namespaces | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* Keys for the bus, as JSON: whose they are, the Secret, its namespace, and the roles they speak for. */}}
{{- define "esper.bus-keys" -}}
{{- $full := include "esper.fullname" . -}}
{{- $keys := list -}}
{{- range $name, $role := dict "dispatcher" "urza" "tezzeret" "tezzeret" "urabrask" "urabrask" -}}
{{- $keys = append $keys (dict "name" $name "secret" (printf "%s-bus-%s" $full $name) "namespace" $.Release.Namespace "roles" (list $role)) -}}
{{- end -}}
{{- range include "esper.training-namespaces" . | fromJsonArray -}}
{{- $keys = append $keys (dict "name" (printf "trainer-%s" .) "secret" (printf "%s-bus-trainer" $full) "namespace" . "roles" (list "tolaria" "tamiyo" "kasmina" "weatherlight")) -}}
{{- end -}}
{{- $keys | toJson -}}
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

{{/* What every process on the bus is told of the broker, as YAML. */}}
{{- define "esper.pulsar-environment" -}}
ESPER_PULSAR_SERVICE_URL: {{ (include "esper.servers" . | fromJson).pulsar.serviceUrl | quote }}
ESPER_PULSAR_TENANT: {{ .Values.pulsar.tenant | quote }}
ESPER_PULSAR_NAMESPACE: {{ .Values.pulsar.namespace | quote }}
{{- if .Values.pulsar.existingSecret }}
ESPER_PULSAR_TOKEN_FILE: /var/run/secrets/esper-pulsar/token
{{- end }}
{{- if .Values.pulsar.plaintextToken }}
ESPER_PULSAR_PLAINTEXT_TOKEN: "true"
{{- end }}
{{- if .Values.pulsar.caConfigMap }}
ESPER_PULSAR_TLS_CA_FILE: /etc/esper-pulsar/ca.crt
{{- end }}
{{- end -}}

{{/* Volumes of whoever is on the bus. Called with (dict "root" $ "secret" NAME). */}}
{{- define "esper.bus-volumes" -}}
- name: esper-key
  secret: {secretName: {{ .secret }}, defaultMode: 0440, items: [{key: key.pem, path: key.pem}]}
- name: esper-trusted
  configMap: {name: {{ include "esper.fullname" .root }}-trusted}
- name: esper-kernels
  configMap: {name: {{ include "esper.fullname" .root }}-kernels}
{{- include "esper.pulsar-volumes" .root }}
{{- end -}}

{{- define "esper.pulsar-volumes" -}}
{{- with .Values.pulsar.existingSecret }}
- name: esper-pulsar
  secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: {{ $.Values.pulsar.tokenKey }}, path: token}]}
{{- end }}
{{- with .Values.pulsar.caConfigMap }}
- name: esper-pulsar-ca
  configMap: {name: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end -}}

{{- define "esper.bus-mounts" -}}
- {name: esper-key, mountPath: /var/run/secrets/esper-bus, readOnly: true}
- {name: esper-trusted, mountPath: /etc/esper-trusted, readOnly: true}
- {name: esper-kernels, mountPath: /etc/esper-kernels, readOnly: true}
{{- include "esper.pulsar-mounts" . }}
{{- end -}}

{{- define "esper.pulsar-mounts" -}}
{{- if .Values.pulsar.existingSecret }}
- {name: esper-pulsar, mountPath: /var/run/secrets/esper-pulsar, readOnly: true}
{{- end }}
{{- if .Values.pulsar.caConfigMap }}
- {name: esper-pulsar-ca, mountPath: /etc/esper-pulsar, readOnly: true}
{{- end }}
{{- end -}}

{{/* A name the user gave, or with the library that of what is made here. Called with (dict "root" $ "value" V "name" N). */}}
{{- define "esper.own" -}}
{{- $own := printf "%s-%s" (include "esper.fullname" .root) .name -}}
{{- default (ternary $own "" .root.Values.urza.enabled) .value -}}
{{- end -}}

{{/* Variables of training pods, as JSON; the user's go first. */}}
{{- define "esper.training-environment" -}}
{{- $told := dict -}}
{{- if .Values.urza.enabled -}}
{{- $told = include "esper.pulsar-environment" . | fromYaml -}}
{{- end -}}
{{- mergeOverwrite $told .Values.worker.env .Values.training.env | toJson -}}
{{- end -}}

{{/* What is laid over every training pod, as JSON: how it knows the broker and is known to it, and what its image lacks. */}}
{{- define "esper.training-template" -}}
{{- $volumes := .Values.worker.extraVolumes -}}
{{- $mounts := .Values.worker.extraVolumeMounts -}}
{{- if .Values.urza.enabled -}}
{{- $volumes = concat (include "esper.pulsar-volumes" . | fromYamlArray) $volumes -}}
{{- $mounts = concat (include "esper.pulsar-mounts" . | fromYamlArray) $mounts -}}
{{- end -}}
{{- if or $volumes $mounts -}}
{{- dict "spec" (dict "volumes" $volumes "containers" (list (dict "name" "trainer" "volumeMounts" $mounts))) | toJson -}}
{{- else -}}
{}
{{- end -}}
{{- end -}}
